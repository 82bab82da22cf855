// Package vmtest starts a whole host (hostd-bridge, controller, virtual machines) for a test, isolated from every other
// one: its own directories, its own sockets, a free port. When a test fails it prints the logs and the machines'
// consoles; when a host ends it counts what is left of it, and anything left fails the test.
//
// It runs the programs of bin/, as a user would. Without them, or without QEMU, a test is skipped with a word on how to
// get them; with CVM_REQUIRE_VM=1, which `make test` sets, it fails instead.
package vmtest
