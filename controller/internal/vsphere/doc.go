// Package vsphere is the controller's way to its host: a vCenter, or any server of the vSphere API such as hostd-bridge.
// It is the only package that uses govmomi.
//
// Everything is plain vim25 but what a host may offer beside it, on the same port and in the same session (package hostapi): links
// to tethers (Link), the log of a VM's main process (OpenLog), pre-start pools, memory, and disks of instant clones
// (CloneSpec.RootParent, where Has says so). On a host without them Link and OpenLog fail with errdefs.ErrNotImplemented.
//
// One long poll (WaitForUpdatesEx over a view of all VMs) keeps an inventory in memory; reading it costs no call, and
// waiting for a change of a VM is waiting for that long poll. Nothing here polls on a timer.
package vsphere
