// Package template keeps the frozen machines that containers are forked from, and the machines that were forked from them
// ahead of time.
//
// A template is a virtual machine that has booted, got ready to be anyone, and stands still for ever: one for each kernel,
// initramfs, memory size and number of CPUs, made when it is first wanted. What exists is in the host's inventory alone, so
// that the next controller finds it; a Store knows beside it only what is under way: templates being made, clones being
// taken, and who used which last.
//
// The rules:
//   - At most Options.Most templates. For another one, the one used longest ago goes; one of other boot files before all. One
//     that is being made or cloned stays, so that for a moment there may be one too many.
//   - A template that ended, or whose inputs are others now, is removed and made anew. None is ever resumed.
//   - Warm machines belong to the template that was used last. They are made only while no container is being made or started.
package template
