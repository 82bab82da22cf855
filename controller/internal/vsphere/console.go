package vsphere

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

const (
	// consoleTail is how much of a guest's console an error quotes, in bytes.
	consoleTail = 2 << 10
	// consoleTimeout bounds the reading of it: the host may be what the error is about.
	consoleTimeout = 5 * time.Second
)

// ConsoleTail returns the end of the console of a VM's guest, at most 2 KiB of text for people, or why it cannot be had.
func (c *Client) ConsoleTail(ctx context.Context, name string) string {
	ctx, cancel := context.WithTimeout(ctx, consoleTimeout)
	defer cancel()
	r, err := c.get(ctx, name+"/"+hostapi.ConsoleFile, fmt.Sprintf("-%d", consoleTail))
	if err != nil {
		return err.Error()
	}
	defer r.Close()
	text, err := io.ReadAll(io.LimitReader(r, 64*consoleTail)) // more than asked for from a server without ranges
	if err != nil {
		return err.Error()
	}
	tail := string(text[max(0, len(text)-consoleTail):])
	return strings.TrimSpace(strings.ToValidUTF8(strings.ReplaceAll(tail, "\r", ""), "?"))
}
