// Package vm says what the virtual machines of a host are: their state and configuration, requests to change them and what is
// wrong with one, and what realises them (Hypervisor, Machine, Disks). It holds no state. The packages below it do the work:
//
//	inventory   holds the state of all VMs and resource pools, and records each change of it in the journal
//	journal     the file
//	admission   decides whether the host has the memory for a start
//	disks       root slots: attach, detach, and the disks that are kept as they were at fork points
//	prestart    QEMUs that are started ahead of time for the clones of frozen VMs
//	networks    the switches of networks
//	lifecycle   create, power, reconfigure, destroy, and what an earlier daemon left
//	clone       InstantClone
//	vmhost      all of them together, for those who serve clients
//	vmtest      a hypervisor in memory, for tests
//
// Each imports only those above it, but for journal, which imports none.
package vm
