// Package container is what a container is: a virtual machine whose extraConfig says so.
//
// Nothing is kept here that could be lost: what is known of a container is in its VM (keys cvm.name and cvm.container,
// guestinfo.cvm.*) and in its log file. A controller that starts anew therefore knows all containers that an earlier
// one made. The exceptions live as long as the process: exec sessions (as in Docker) and names of containers that are
// just being made.
//
// The way of a container is create (CreateVM) -> start (PowerOn) -> the tether reports RUNNING -> it reports EXITED and
// powers the VM off -> remove (Destroy). Every step is seen through the inventory watch of package vsphere.
package container
