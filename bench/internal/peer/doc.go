// Package peer holds what containerVM's forks are compared with, on this machine: QEMU driven directly, in each of the
// ways in which a machine can come to answer, and OCI runtimes. Every clock ends at a byte that the guest or the process
// wrote, never at what a program says about itself ("restored"), since what was restored may still have to run.
//
// The guest is the containers' own kernel with a C program of a few instructions as init (guest/init.c): the least that
// can answer, which is the best that each peer can do.
package peer
