package fields

// Exec is what becomes of the fields of a request for a further process.
func Exec() Table {
	return newTable(
		done("", "User Privileged Tty ConsoleSize AttachStdin AttachStderr AttachStdout DetachKeys Env WorkingDir Cmd"),
		keys(
			nothing("", "Detach", "the start of the process says it"),
			nothing("", "Container", "the path says it; docker-py sends it too"),
		),
	)
}

// ExecStart is what becomes of the fields of a request to start such a process.
func ExecStart() Table {
	return newTable(done("", "Detach ConsoleSize"), nothing("", "Tty", "the request that made it says it"))
}

// Update is what becomes of the fields of a request to change a container's limits.
func Update() Table {
	return newTable(
		done("RestartPolicy.", "Name MaximumRetryCount"),
		done("Resources.", "CPUShares Memory NanoCPUs CPUPeriod CPUQuota CpusetCpus MemoryReservation MemorySwap PidsLimit"),
		refused("Resources.", "Devices MemorySwappiness Ulimits", "it is set when a container is made"),
		never("Resources."),
		keys(refused("", "KernelMemory KernelMemoryTCP", "it was removed in version 1.42 of the API: use Memory")),
	)
}

// NetworkCreate is what becomes of the fields of a request to make a network.
func NetworkCreate() Table {
	return newTable(
		done("", "Name Driver Scope EnableIPv4 EnableIPv6 Internal Attachable Options Labels"),
		done("IPAM.", "Driver Options Config.Subnet Config.IPRange Config.Gateway Config.AuxAddress"),
		refused("", "Ingress", "an ingress network is not supported: there is no swarm"),
		refused("", "ConfigOnly ConfigFrom.Network", "configuration networks (config-only, config-from) are not supported: give each network its own configuration"),
		keys(nothing("", "CheckDuplicate", "a network's name is always its own")),
	)
}

// Connect is what becomes of the fields of a request to put a container into a network.
func Connect() Table {
	return newTable(done("", "Container"), endpoint("EndpointConfig."))
}

// Disconnect is what becomes of the fields of a request to take a container out of a network.
func Disconnect() Table {
	return newTable(
		done("", "Container"),
		nothing("", "Force", "a container is in a network as its VM's record says, and nowhere else"),
	)
}

// VolumeCreate is what becomes of the fields of a request to make a volume.
func VolumeCreate() Table {
	return newTable(
		done("", "Name Driver DriverOpts Labels"),
		refused("", "ClusterVolumeSpec", "cluster volumes are not supported: there is no swarm"),
	)
}
