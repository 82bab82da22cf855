// Package link is the contract between a containerVM's tether and the hosts that drive it. It is the only package of
// the guest that hosts import: names and numbers, the messages, the session, a client, and linktest, a fake tether.
//
// spec.md beside this file is the contract in prose.
package link

// Keys of guestinfo, the asynchronous plane: key and value, both ways, by VMware's RPCI text commands.
const (
	// KeySpec holds the Spec as protobuf JSON; set by the host before power-on.
	KeySpec = "guestinfo.cvm.spec"
	// KeyPhase holds the name of the boot phase that the tether has begun; set by the guest.
	KeyPhase = "guestinfo.cvm.phase"
	// KeyStatus holds the Status as protobuf JSON; set by the guest at each change of state.
	KeyStatus = "guestinfo.cvm.status"
	// KeyHealth holds the HealthStatus as protobuf JSON; set by the guest at the end of each check of a container that has a Health.
	KeyHealth = "guestinfo.cvm.health"
	// KeyClock holds the ClockStatus as protobuf JSON; set by the guest while a container runs, at most once in 8 s and mostly once in 10 minutes.
	KeyClock = "guestinfo.cvm.clock"
	// KeyVersion holds the version of the tether's build; set by the guest.
	KeyVersion = "guestinfo.cvm.version"
	// KeyFork holds the Fork as protobuf JSON; set by the host in a machine that is one.
	KeyFork = "guestinfo.cvm.fork"
	// KeyGate is GateOpen once the container's process may start. A child of a template becomes who its Spec says and waits
	// before the process; a machine that was booted does not look at it. Set by the host.
	KeyGate = "guestinfo.cvm.gate"
	// KeyMACs holds the MAC addresses of a fork's network cards, by slot and separated by commas, empty for a spare one; set by a host on which
	// the cards of a fork come up with those of its template.
	KeyMACs = "guestinfo.cvm.macs"
	// KeyReceipt holds the Receipt as protobuf JSON; set by a fork's guest. The host lets frames pass when it shows no
	// failure.
	KeyReceipt = "guestinfo.cvm.receipt"
	// KeyRehearse is set by the host in a template's child that is made ahead of time, with a blank disk in its root slot: the child
	// goes through the start of a container once, on that disk, before it waits to be someone. The host may take the disk out when
	// KeyPhase is PhaseWarm. The value is a Spec, or anything: of a Spec the child takes on the interfaces, which are most likely those
	// of the container that it becomes, and keeps them.
	KeyRehearse = "guestinfo.cvm.rehearse"
	// KeyNever is never set: a guest that waits for it learns of its own fork, which ends the waiting.
	KeyNever = "guestinfo.cvm.never"
	// KeyIP holds the first address of the guest; the key is VMware Tools' own, shown as guest.ipAddress.
	KeyIP = "guestinfo.ip"
)

// GateOpen is the value of KeyGate that lets the container's process start.
const GateOpen = "open"

// PhaseWarm is the phase of a child that has rehearsed and waits for its Spec. The rehearsal's disk is free then.
const PhaseWarm = "warm"

// MainSession is the session of the container's main process. It exists from the moment the process is started.
const MainSession = "main"

// DefaultStopGrace is how many seconds a process has between the stop signal and SIGKILL where its Spec says nothing: Docker's
// default.
const DefaultStopGrace = 10

// Ports of the guest.
const (
	// PortLink is the vsock port on which the tether serves link sessions.
	PortLink uint32 = 1024
)

// Service is what a guest reaches on its host (CID 2).
type Service uint32

// Services of the host; the numbers are part of the contract.
const (
	ServiceGuestinfo Service = 1 // RPCI text commands, see Command
	ServiceLog       Service = 2 // the main process's output, as records
)

// HostPort is the port on CID 2 at which a guest with the given CID reaches a service: the kernel's vhost-vsock
// shares one port space between all guests of a host, so each has its own ports. The guest asks the kernel for its CID
// (IOCTL_VM_SOCKETS_GET_LOCAL_CID) each time it dials, since a fork changes it. CIDs are below 1<<28.
func HostPort(cid uint32, s Service) uint32 { return cid<<4 | uint32(s) }
