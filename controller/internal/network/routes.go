package network

import "net/netip"

func routes() ([]netip.Prefix, error) { return nil, nil }
