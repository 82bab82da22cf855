package fields

import "slices"

// Reasons that several fields share.
const (
	windows    = "it is of Windows containers: a containerVM is linux/amd64"
	noRealtime = "a containerVM's kernel has no real-time scheduling of groups: leave it out"
	noBlkio    = "a containerVM has its disks for itself, and no bound of their throughput: leave it out"
	ownCgroups = "a containerVM has the cgroups of its own kernel, and none of its host"
	asShown    = "shown by inspect; no wish of a client, as in Docker"
)

// Create is what becomes of the fields of a request to make a container.
func Create() Table {
	return newTable(
		config("Config."),
		hostConfig("HostConfig."),
		resources("HostConfig.Resources."),
		mounts("HostConfig.Mounts."),
		endpoint("NetworkingConfig.EndpointsConfig."),
		keys(
			done("", "MacAddress"), // a container's until 1.52
			done("", "Runtime"),    // docker-py has it beside HostConfig
			refused("HostConfig.", "KernelMemory KernelMemoryTCP", "it was removed in version 1.42 of the API: use Memory"),
			refused("HostConfig.", "Capabilities", "it was of version 1.40 of the API alone: use CapAdd and CapDrop"),
			refused("HostConfig.", "LxcConf DiskQuota", "it was removed long ago"),
		),
	)
}

// config are the lines of container.Config.
func config(under string) []Line {
	return slices.Concat(
		done(under, `Hostname Domainname User AttachStdin AttachStdout AttachStderr ExposedPorts Tty OpenStdin StdinOnce Env Cmd Image Volumes
			WorkingDir Entrypoint NetworkDisabled Labels StopSignal StopTimeout Shell`),
		done(under+"Healthcheck.", "Test Interval Timeout StartPeriod StartInterval Retries"),
		nothing(under, "ArgsEscaped", "a command is a list, and run as it is"),
		nothing(under, "OnBuild", "it is for builds on an image; shown by inspect"),
	)
}

func hostConfig(under string) []Line {
	return slices.Concat(
		done(under, `Binds NetworkMode AutoRemove VolumeDriver VolumesFrom ConsoleSize CapAdd CapDrop CgroupnsMode DNS DNSOptions
			DNSSearch ExtraHosts GroupAdd IpcMode OomScoreAdj PidMode Privileged PublishAllPorts ReadonlyRootfs SecurityOpt Tmpfs UTSMode
			UsernsMode ShmSize Sysctls Runtime Umask MaskedPaths ReadonlyPaths Init`),
		done(under+"LogConfig.", "Type Config"),
		done(under+"PortBindings.", "HostIP HostPort"),
		done(under+"RestartPolicy.", "Name MaximumRetryCount"),
		nothing(under, "ContainerIDFile", "the client writes the file; shown by inspect"),
		nothing(under, "Annotations", "kept and shown; there is no OCI runtime that reads them"),
		refused(under, "Cgroup", ownCgroups),
		done(under, "Links"),
		refused(under, "StorageOpt", "a container's root grows up to 64 GiB: give it a volume with a size (docker volume create -o size=10g) for what is to be bounded"),
		[]Line{{Path: under + "Isolation", State: Refused, Text: windows, Takes: []string{"default"}}},
	)
}

// resources are the lines of container.Resources in a create.
func resources(under string) []Line {
	return slices.Concat(
		done(under, `CPUShares Memory NanoCPUs CPUPeriod CPUQuota CpusetCpus MemoryReservation MemorySwap MemorySwappiness PidsLimit`),
		done(under+"Ulimits.", "Name Soft Hard"),
		refused(under, "Devices", "devices of the host cannot be given to a containerVM. Its own kernel has FUSE and TUN: root in it may mknod /dev/fuse c 10 229, /dev/net/tun c 10 200"),
		never(under),
	)
}

// never are the resources that no containerVM has.
func never(under string) []Line {
	return slices.Concat(
		refused(under, "CgroupParent", ownCgroups),
		refused(under, "BlkioWeight BlkioWeightDevice BlkioDeviceReadBps BlkioDeviceWriteBps BlkioDeviceReadIOps BlkioDeviceWriteIOps", noBlkio),
		refused(under, "CPURealtimePeriod CPURealtimeRuntime", noRealtime),
		[]Line{{Path: under + "CpusetMems", State: Refused, Text: "a containerVM has one memory node", Takes: []string{"0"}}},
		refused(under, "DeviceCgroupRules", "a containerVM may use all devices of its own machine"),
		refused(under, "DeviceRequests", "devices of the host, GPUs among them, cannot be given to a containerVM"),
		refused(under, "OomKillDisable", "the kernel of a containerVM kills the process that exceeds its memory; without that the machine would stand still"),
		refused(under, "CPUCount CPUPercent IOMaximumIOps IOMaximumBandwidth", windows),
	)
}

// mounts are the lines of mount.Mount.
func mounts(under string) []Line {
	return slices.Concat(
		done(under, "Type Source Target ReadOnly"),
		nothing(under, "Consistency", "it is of Docker Desktop: there is one view of a volume"),
		[]Line{{
			Path: under + "BindOptions.Propagation", State: Refused, Takes: []string{"private", "rprivate"},
			Text: "a containerVM has its own kernel, with which no mount is shared",
		}},
		nothing(under+"BindOptions.", "NonRecursive ReadOnlyNonRecursive ReadOnlyForceRecursive", "a file that is copied in has nothing below it"),
		refused(under+"BindOptions.", "CreateMountpoint", "a directory of the host cannot be mounted: use a volume"),
		done(under+"VolumeOptions.", "NoCopy Labels Subpath DriverConfig.Name DriverConfig.Options"),
		refused(under+"ImageOptions.", "Subpath", "mounts of type image are not supported: copy what is wanted of the image into a volume"),
		done(under+"TmpfsOptions.", "SizeBytes Mode Options"),
		refused(under, "ClusterOptions", "there is no swarm"),
	)
}

// endpoint are the lines of network.EndpointSettings.
func endpoint(under string) []Line {
	return slices.Concat(
		done(under, "Aliases Links DriverOpts GwPriority MacAddress IPAMConfig.IPv4Address IPAMConfig.IPv6Address"),
		refused(under+"IPAMConfig.", "LinkLocalIPs", "link-local addresses are not supported: an IPv6 network gives one to each interface by itself"),
		nothing(under, "NetworkID EndpointID Gateway IPAddress IPPrefixLen IPv6Gateway GlobalIPv6Address GlobalIPv6PrefixLen DNSNames", asShown),
	)
}
