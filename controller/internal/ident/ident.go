// Package ident makes the identifiers of containers, which are the names of their virtual machines.
package ident

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"
)

// New returns 64 random hexadecimal digits. One whose first twelve are all decimal is not used: as Docker's short ID and as
// a host name it would be taken for a number.
func New() string {
	for {
		var b [32]byte
		_, _ = rand.Read(b[:]) // never fails (crypto/rand)
		id := hex.EncodeToString(b[:])
		if strings.Trim(id[:12], "0123456789") != "" {
			return id
		}
	}
}

// UUID is the first 16 bytes of an identifier in the form of RFC 9562: the machine's BIOS UUID.
func UUID(id string) string {
	return fmt.Sprintf("%s-%s-%s-%s-%s", id[:8], id[8:12], id[12:16], id[16:20], id[20:32])
}
