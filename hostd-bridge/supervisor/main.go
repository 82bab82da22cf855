// Command cvm-supervisor stands behind one virtual machine: see package internal/supervisor. The daemon starts it.
package main

import (
	"log/slog"
	"os"

	"github.com/containervm/containervm/hostd-bridge/internal/supervisor"
)

func main() {
	if err := supervisor.Run(os.Stdin, os.Stdout, os.Stderr); err != nil {
		slog.New(slog.NewTextHandler(os.Stderr, nil)).Error("no machine", "err", err)
		os.Exit(1)
	}
}
