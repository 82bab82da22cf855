package vsphere

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
)

// Header of a kernel for x86 (Linux, Documentation/arch/x86/boot.rst): where its mark and the place of its version are, in bytes, and from where
// that place counts. The version is in the part that comes before the kernel proper, which ends before kernelHead.
const (
	kernelMark    = 0x202
	kernelVersion = 0x20e
	kernelBase    = 0x200
	kernelHead    = 64 << 10
)

// kernelRelease is that of the kernel that machines boot, of which the release may have two forms; empty when it cannot be read.
func (c *Client) kernelRelease(ctx context.Context) string {
	if known := c.kernel.Load(); known != nil {
		return *known
	}
	file, err := c.get(ctx, cmp.Or(c.boot.KernelBz, c.boot.Kernel), fmt.Sprintf("0-%d", kernelHead-1))
	if err != nil {
		return ""
	}
	defer file.Close()
	head, err := io.ReadAll(io.LimitReader(file, kernelHead))
	if err != nil {
		return ""
	}
	release := releaseIn(head)
	c.kernel.Store(&release)
	return release
}

// releaseIn is the release in the head of a kernel; empty: it is none.
func releaseIn(head []byte) string {
	if len(head) < kernelVersion+2 || string(head[kernelMark:kernelMark+4]) != "HdrS" {
		return ""
	}
	at := kernelBase + int(binary.LittleEndian.Uint16(head[kernelVersion:]))
	if at >= len(head) {
		return ""
	}
	release, _, ok := strings.Cut(string(head[at:min(at+64, len(head))]), " ") // what comes behind says who built it, and when
	if !ok || strings.ContainsFunc(release, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return ""
	}
	return release
}
