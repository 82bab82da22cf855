package network

// NoneID is the ID of the network "none", which connects nothing.
func NoneID() string { return none().ID }
