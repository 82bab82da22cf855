// Package template keeps templates, the frozen VMs that containers are forked from, and the pool of warm VMs, which were forked
// from them ahead of time.
//
// A template has booted, has prepared what needs nothing of a container, and is frozen, never to be resumed. There is one for
// each kernel, initramfs, memory size and number of CPUs, made when it is first wanted. Which templates and warm VMs exist is
// in the host's inventory alone, so that the next controller finds them.
//
// The rules:
//   - There are at most Options.Most templates. To make another one, the one used longest ago is removed, or first one of other
//     boot files. One that is being made or has a lease is not removed, so for a moment there may be one too many.
//   - A template that ended, or whose boot files are not those of new VMs, is removed and made anew.
//   - Warm VMs are children of the template that was used last. They are made only while no container is being made or started.
//
// What a Store knows beside the inventory is owned by it and guarded by its one mutex, which is not held while anything waits
// for the host. Functions that want it held have names that end in Locked. A template goes through these states:
//
//	wanted     a job waits in the queue, until Run begins it
//	making     the job runs: the VM boots, until it is frozen; or it fails: no job, and a failure that says when to try again
//	frozen     it may be leased; each lease is one clone being taken
//	unfit      frozen, but unfitAfter clones in a row failed: no leases; when it is wanted next it is removed and made anew
//	removing   no leases; its VM is being destroyed
//	ended      its VM is off, which nobody asked for: as unfit
//
// A warm VM is rehearsing until its phase says that it has, then ready; it is claimed while a create, or the pool, is at work on
// it. One that is not ready in Options.Timeout is removed when something changes next.
package template
