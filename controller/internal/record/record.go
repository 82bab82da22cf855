// Package record owns what the controller writes into the extraConfig of its VMs: the keys and their values. A VM is all
// that is kept of a container, an unpacker or a template, so what is written here is the controller's state.
package record

// Keys of extraConfig.
const (
	KeyRole      = "cvm.role"      // what the VM is for: one of the roles below
	KeyName      = "cvm.name"      // of the container
	KeyContainer = "cvm.container" // JSON: what the container was made with
	KeyDisks     = "cvm.disks"     // Attached: the VM has the disks of the container's volumes; absent: it gets them when it is started
	KeyStart     = "cvm.start"     // JSON: why the machine was not forked, and the API's marks of the start-up timeline
	KeyTemplate  = "cvm.template"  // JSON: what the template was made of, and when
	KeyNetworks  = "cvm.networks"  // JSON: array of Endpoint; what the machine is in its networks
	KeyRestart   = "cvm.restart"   // JSON: how the restart policy stands
	// KeyPublished is hostapi.KeyPublished of a container whose ports the controller publishes itself, in its present or last run.
	KeyPublished = "cvm.published"
	// KeyUnconfigured is there while the guest has still to be told of a change of KeyNetworks.
	KeyUnconfigured = "cvm.unconfigured"
	// KeyStands is there while the controller has paused the container for work of its own: the number of the run.
	KeyStands = "cvm.stands"
)

// Roles: the values of KeyRole.
const (
	RoleContainer = "container"
	RoleUnpacker  = "unpacker"
	RoleTemplate  = "template"
	RoleWarm      = "warm" // a template's child without a container
	// RoleForkSource is a copy of a running container, at the moment of its fork, while its children are made.
	RoleForkSource = "fork-source"
	RoleFiles      = "files" // has the disks of a container that does not run, while its files are read or written
)
