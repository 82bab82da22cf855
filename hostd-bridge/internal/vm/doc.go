// Package vm owns the virtual machines of one host: their configuration, life cycle and journal.
package vm
