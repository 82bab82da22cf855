package netswitch

import (
	"context"
	"os/signal"
	"strconv"
	"syscall"
)

func signalContext() (context.Context, func()) {
	return signal.NotifyContext(context.Background(), syscall.SIGTERM)
}

func itoa(n int) string { return strconv.Itoa(n) }
