package identity

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
)

// fastOpenKey is the key of the cookies by which TCP's clients send data with their first segment (Linux, ip-sysctl.rst, tcp_fastopen_key).
const fastOpenKey = "/proc/sys/net/ipv4/tcp_fastopen_key"

// RenewTCP makes TCP's secrets new that can be. The others, for sequence numbers, time stamps, SYN cookies, ports and tables, Linux makes at their
// first use (net_get_random_once in net/core/secure_seq.c and elsewhere), and has no way to make them again.
func RenewTCP() (string, error) {
	const kept = "those of sequence numbers, ports, SYN cookies and tables are its source's: Linux makes them once in a boot"
	key, err := os.ReadFile(fastOpenKey)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "", Skip(kept)
	case err != nil:
		return "", err
	case strings.Trim(string(key), "0-,\n") == "":
		return "", Skip("fast open has none; " + kept)
	}
	var fresh [16]byte
	_, _ = rand.Read(fresh[:]) // never fails (crypto/rand); from the kernel's generator, which was reseeded before
	words := make([]string, 4)
	for i := range words {
		words[i] = fmt.Sprintf("%08x", binary.NativeEndian.Uint32(fresh[4*i:]))
	}
	return "of fast open; " + kept, os.WriteFile(fastOpenKey, []byte(strings.Join(words, "-")), 0)
}
