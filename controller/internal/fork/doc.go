// Package fork makes children of running containers that go on where their source stands.
//
// The way of a fork: the source's processes are held where they stand; its machine is cloned, and the copy freezes: the fork
// point; the processes go on; the children are cloned from the fork point; it is destroyed. What a controller that dies leaves of
// this the next one removes (Sweep).
package fork
