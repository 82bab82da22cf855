// Package netswitch is the daemon's side of the switch of one network, a process that passes frames between the cards of VMs, is their
// gateway to the outside, resolves names and holds published ports (package core): it starts switches, finds them again after the
// daemon's own restart, and tells them all that they have to know (Apply).
//
// The process outlives the daemon. It knows no VMs, journals nothing and decides nothing: each Config is whole. When it dies, the
// daemon starts another one and says the same again; supervisors connect again by themselves, connections are lost.
package netswitch
