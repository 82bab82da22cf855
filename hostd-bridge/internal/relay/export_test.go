package relay

// Open opens a log for a request that was taken when a VM was as v.
var Open = (*Relay).open
