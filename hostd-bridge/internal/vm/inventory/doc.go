// Package inventory holds the state of a host's virtual machines, resource pools and networks. It commits each change as a record of the
// journal, and then publishes it and wakes those who wait on Signal. It operates on nothing: the packages that do (vm's package comment
// lists them) get an Entry from Acquire or Allocate and change it by Entry.Change.
//
// # What a record survives
//
// A change in memory comes again by itself: the guest or the machine says it anew when it is adopted. A written one survives this
// process, a synced one the host. A state is published when it is as durable as its change asks, and not before: nobody acts
// on what may turn out not to have been.
//
// # Lock order
//
// Who holds a lock takes only those below it.
//
//  1. the operation of an entry (Acquire, Allocate): one operation on a VM at a time. It is held as long as the operation takes. A clone holds
//     its source's and then that of its child, which nobody else knows yet.
//  2. disks.forks: the files in vm.ForksDir come and go one after the other.
//  3. disks.claims: from the look whether a disk's path is free, or its file locked, to the record that takes it, or to its change.
//  4. Inventory.alloc: from the choice of what is unique on the host (references, CIDs, names, MACs, homes) to its record, so that the
//     counters' records are in order; and changes of pools and networks, so that nothing is allocated in one that goes.
//  5. Entry.commit: from reading a VM's state to publishing the next one. DestroyPool alone holds several, under alloc.
//  6. admission's, prestart's and networks' own.
//  7. Inventory.mu: what is published. It is held for looks and assignments, never over I/O.
//  8. those of the journal and of Signal.
//
// Three of them are held over an fsync. Entry.commit, because a VM's states are published in the order of their records: it delays
// other changes of the same VM, and no reader. Inventory.alloc, by a change of a pool or a network: it delays whoever makes a VM, and is rare.
// disks.forks, by the delta that replaces a kept disk: until it is recorded, prune would take the kept file for one that nobody
// needs. The journal holds its own lock over the fsync of a compacted file, when it has grown to a multiple of its content.
package inventory
