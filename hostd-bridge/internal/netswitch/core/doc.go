// Package core is the process that is the switch of one network.
//
// # Default deny
//
// A frame is passed on from the address that its card was given, to an address that is known, or to all (port.go). The gateway takes
// what a guest sends from its own IP addresses only (admit.go). It reaches the outside in the guest's stead, from sockets of the host:
// where to is one function of policy.go. There is no other way from a guest to the host.
//
// # Who owns what
//
// apply, under its lock, is the only one that changes what the switch was told: it publishes a table, which is never changed. A card of
// the table is new with each, its member goes on as long as the endpoint is there: the connection of its supervisor, its counters, its
// ports, and the life of its sessions. A session takes its life before it looks at the table, so that what a newer table does not allow
// ends. Frames between cards are copied once, into a queue with a bound, which one goroutine empties with one write; nobody waits for a
// card. Frames for the gateway go through gVisor's netstack.
package core
