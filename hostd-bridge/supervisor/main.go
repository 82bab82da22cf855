// Command cvm-supervisor stands behind one virtual machine: see package internal/supervisor. The daemon starts it.
package main

import (
	"log/slog"
	"os"

	"github.com/containervm/containervm/hostd-bridge/internal/supervisor"
)

func main() {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := supervisor.Run(os.Stdin, os.Stdout, log); err != nil {
		log.Error("no machine", "err", err)
		os.Exit(1)
	}
}
