// Package jail puts the processes of a machine into a jail: a user of their own, no capabilities, namespaces of their own with a root that holds
// their programs alone, limits, and filters of system calls that name what they may do.
//
// # The way of a machine's processes
//
//	daemon -- exec, in new namespaces --> stage 1 (Enter): root, /proc, user, limits; no input but its plan
//	            -- exec --> the supervisor, process 1 of the machine's namespaces; ConfineSelf once QEMU is there
//	                          -- fork, exec --> the launcher (Enter): QEMU's filter, whose listener it sends to the supervisor
//	                                              -- exec --> QEMU
//
// Stage 1 and the launcher are the supervisor's own program. What is not on QEMU's list comes to the supervisor, which names the call in the
// machine's last report and ends the machine; a call that is not on the supervisor's or a switch's own list ends that process (SIGSYS),
// and Go's runtime writes the call's registers to its log.
//
// # Levels
//
// As root a machine has a user from a range of numbers (Full). As an ordinary user it has a user namespace with that one user (UserNamespace),
// where the kernel lets it. Filters are there at each level.
package jail
