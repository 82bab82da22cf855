// Package container is what a container is: a virtual machine whose extraConfig says so (package record).
//
// Nothing is kept here that could be lost: what is known of a container is in its VM, as the host and the guest have said it, and
// in its log. A controller that starts anew therefore knows all containers that an earlier one made. The exceptions live as long as
// the process: names of containers that are being made, starts in flight, and marks of the API that no operation has written yet.
//
// A container is created (CreateVM, or a clone of a template), started (PowerOn, or its gate is opened), ends, and is removed
// (Destroy). Each step is seen through the inventory watch of package vsphere as a run and its phase (phase.go).
//
// The packages exec, stream and fork are built on this one: sessions, streams and forks of containers. They see containers as
// values, and their Service through interfaces of their own.
package container
