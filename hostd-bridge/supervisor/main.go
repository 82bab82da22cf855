// Command cvm-supervisor stands behind one virtual machine: see package internal/supervisor. The daemon starts it.
package main

import (
	"fmt"
	"log/slog"
	"os"

	"github.com/containervm/containervm/hostd-bridge/internal/jail"
	"github.com/containervm/containervm/hostd-bridge/internal/supervisor"
	"github.com/containervm/containervm/internal/version"
)

func main() {
	jail.Enter() // before all else: this may be another stage of a machine's start
	if len(os.Args) == 2 && os.Args[1] == "--version" {
		fmt.Println("cvm-supervisor", version.String())
		return
	}
	if err := jail.CloseOnExec(); err != nil {
		slog.New(slog.NewTextHandler(os.Stderr, nil)).Error("no machine", "err", err)
		os.Exit(1)
	}
	if err := supervisor.Run(os.Stdin, os.Stderr); err != nil {
		slog.New(slog.NewTextHandler(os.Stderr, nil)).Error("no machine", "err", err)
		os.Exit(1)
	}
}
