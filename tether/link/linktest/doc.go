// Package linktest plays either side of a containerVM's link without a machine: Tether is a tether whose processes are
// Go functions, for tests of hosts; Host is the host's guestinfo and log services, for tests of the tether. Faults lose,
// delay, stall and cut their connections.
package linktest
