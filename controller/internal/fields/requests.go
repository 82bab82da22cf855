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

// Commit is what becomes of the fields of a request to make an image of a container. Clients send a container's whole configuration back: what
// no image has is no wish, as in Docker, whose images have none of it either (API 1.50).
func Commit() Table {
	return newTable(
		done("", "User ExposedPorts Env Cmd Healthcheck.Test Healthcheck.Interval Healthcheck.Timeout Healthcheck.StartPeriod Healthcheck.StartInterval"),
		done("", "Healthcheck.Retries Volumes WorkingDir Entrypoint OnBuild Labels StopSignal Shell"),
		nothing("", `Hostname Domainname AttachStdin AttachStdout AttachStderr Tty OpenStdin StdinOnce Image NetworkDisabled StopTimeout`,
			"it is of a container, and of no image"),
		nothing("", "ArgsEscaped", "a command is a list, and run as it is"),
		keys(nothing("", "MacAddress", "it is of a container, and of no image")),
	)
}

// Auth is what becomes of the fields of a request to log in to a registry.
func Auth() Table {
	return newTable(
		done("", "Username Password Auth ServerAddress IdentityToken RegistryToken"),
		keys(nothing("", "email", "no registry asks for it; docker-py sends it")),
	)
}

// Fork is what becomes of the fields of a request to fork a container, which is containerVM's own.
func Fork() Table {
	return newTable(done("", "Count Names AtPoint Notify.Signal Notify.All Notify.Command"))
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
