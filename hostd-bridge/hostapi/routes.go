package hostapi

// Routes of the host's HTTPS port beside /sdk and /folder. All want the session cookie of vim25's Login and answer 401 without
// it. An error is an Error as JSON. A host without the extensions answers 404 without JSON.
const (
	RoutePrefix     = "/cvm/"           // begins all
	RouteExtensions = "/cvm/extensions" // GET: Extensions
	RoutePools      = "/cvm/pools"      // GET: Pools
	RouteMemory     = "/cvm/memory"     // GET: Memory, measured when it is asked for
	RouteMetrics    = "/cvm/metrics"    // GET: Prometheus text
	RouteVsock      = "/cvm/vsock"      // GET /cvm/vsock/<moref>/<port>, upgraded to UpgradeVsock
	RouteLog        = "/cvm/log"        // GET /cvm/log/<moref>?from=&follow=&wait=
	RouteNetworks   = "/cvm/networks"   // GET: Networks; PUT /cvm/networks/<name>: NetworkSettings
)

const (
	// UpgradeVsock is the protocol that a connection to a vsock port switches to: raw bytes, half-closed by TLS close_notify.
	UpgradeVsock = "cvm-vsock"
	// HeaderLogOffset is the header of a log answer that holds the offset of its first byte.
	HeaderLogOffset = "Cvm-Log-Offset"
	// HeaderLogRun is the header of a log answer that holds the number of the run that was on when the host took the request,
	// which is the one that the answer follows; 0: the VM was off. An answer that waits follows the next run then, and the
	// marker in the log says its number.
	HeaderLogRun = "Cvm-Log-Run"
	// HeaderLogOver is the header of a log answer that holds the number of the last run that was over when the host took the request; 0:
	// none. A later one lasts, is being started, or is still to come.
	HeaderLogOver = "Cvm-Log-Over"
)

// Parameters of RouteLog; each may be left out.
const (
	ParamFrom   = "from"   // offset of the first byte that is wanted, or FromEnd; absent: 0
	ParamFollow = "follow" // Yes: the answer goes on as the log grows, and ends with the run
	// ParamWait is Yes: if the VM is off the answer goes on with its next run, and nothing that it has yet to be sent is removed.
	ParamWait = "wait"

	// FromEnd is the value of ParamFrom that stands for the log's present end.
	FromEnd = "end"
	// Yes is the value of ParamFollow and ParamWait that sets them; any other does not.
	Yes = "1"
)

// Names of extensions.
const (
	ExtensionDiskAtFork = "diskAtFork" // InstantClone_Task takes a disk along
	ExtensionLog        = "log"        // RouteLog
	ExtensionVsock      = "vsock"      // RouteVsock
	ExtensionNetworks   = "networks"   // RouteNetworks and KeyNet
	ExtensionCPULimit   = "cpuLimit"   // the limit of a VM's cpuAllocation is kept to; without it one is refused
)

// Extensions is the answer to RouteExtensions.
type Extensions struct {
	Extensions []string `json:"extensions"`
}

// Pools is the answer to RoutePools.
type Pools struct {
	Pools []Pool `json:"pools"`
}

// Pool is how many machines the host keeps prestarted for future clones of a frozen VM.
type Pool struct {
	Template   string `json:"template"` // moref value of the frozen VM
	Prestarted int    `json:"prestarted"`
	Want       int    `json:"want"`
}

// Machines is the answer to RouteMemory.
type Machines struct {
	Machines []MachineMemory `json:"machines"`
}

// MachineMemory is what a machine takes of its host's memory.
type MachineMemory struct {
	VM string `json:"vm"` // moref value
	Memory
}

// Memory is what a machine takes of its host's memory, in KiB.
type Memory struct {
	// SharedKiB is what the memory holds that a frozen machine is, or that it was forked from; 0 of a machine that was booted.
	SharedKiB int64 `json:"sharedKiB"`
	// GuestPrivateKiB is the guest's memory that no one else has.
	GuestPrivateKiB int64 `json:"guestPrivateKiB"`
	// OverheadKiB is the host's own for the machine, beside the guest's memory.
	OverheadKiB int64 `json:"overheadKiB"`
}

// Error is what a route below /cvm/ answers instead of what was asked for.
type Error struct {
	Message string `json:"message"`
}
