// Package hostile attacks a host from inside a container. Its tests start a whole host with real machines, on which one container counts up,
// serves its count and is watched by a client, while the process of others, the program in attacker/, does what a hostile guest does: it
// floods every way out of its machine, forges, exhausts and breaks its own. Each time the count goes on, the client's connection holds, what the
// host's processes take stays in bounds, and after `docker rm` nothing of the attacker is left.
//
// What only a hostile kernel or tether can send (rings over each other, yamux pings) is tried against fake peers in the packages that take it.
package hostile
