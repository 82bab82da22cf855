package vsphere

import (
	"encoding/binary"
	"testing"
)

// kernelWith is the head of a kernel with a version at a place.
func kernelWith(at int, version string) []byte {
	head := make([]byte, 0x4000)
	copy(head[kernelMark:], "HdrS")
	binary.LittleEndian.PutUint16(head[kernelVersion:], uint16(at-kernelBase))
	copy(head[at:], version)
	return head
}

// TestKernelRelease: the release of a kernel is read of its head; what is none has none.
func TestKernelRelease(t *testing.T) {
	long := string(make([]byte, 100))
	for name, c := range map[string]struct {
		head []byte
		want string
	}{
		"a kernel":          {kernelWith(0x3000, "6.18.1-cvm (a@b) #1 SMP\x00"), "6.18.1-cvm"},
		"no mark":           {make([]byte, 0x4000), ""},
		"short":             {kernelWith(0x3000, "6.1 x")[:0x20e], ""},
		"its place outside": {kernelWith(0x3000, "6.1 x")[:0x3000], ""},
		"no end":            {kernelWith(0x3000, "6.18.1\x00"), ""},
		"nonsense":          {kernelWith(0x3000, "\x01\x02 x"), ""},
		"at the end":        {kernelWith(0x3ffc, "6.1 "), "6.1"},
		"zeros":             {kernelWith(0x3000, long), ""},
	} {
		if got := releaseIn(c.head); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func FuzzKernelRelease(f *testing.F) {
	f.Add(kernelWith(0x3000, "6.18.1-cvm (a@b)")[:0x3100])
	f.Fuzz(func(t *testing.T, head []byte) { releaseIn(head) })
}
