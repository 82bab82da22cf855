// Package netswitch is the switch of one network: a process that passes frames between the cards of VMs, is their gateway to the
// outside, resolves names and holds published ports; and the side of the daemon, which starts it, tells it all it has to know
// (Apply) and finds it again after its own restart.
//
// The process outlives the daemon. It knows no VMs, journals nothing and decides nothing: each Config is whole. When it dies, the
// daemon starts another one and says the same again; supervisors connect again by themselves, connections are lost.
//
// # Default deny
//
// A frame is passed on from the address that its card was given, to an address that is known, or to all. The gateway takes what a
// guest sends from its own IP addresses only. It reaches the outside in the guest's stead, from sockets of the host: where to is
// policy.go, in one function. There is no other way from a guest to the host.
package netswitch
