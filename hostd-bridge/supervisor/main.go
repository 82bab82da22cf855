// Command cvm-supervisor stands behind one virtual machine: see package internal/supervisor. The daemon starts it.
package main

import (
	"flag"
	"fmt"
	"log/slog"
	"os"

	"github.com/containervm/containervm/hostd-bridge/internal/supervisor"
	"github.com/containervm/containervm/internal/version"
)

func main() {
	show := flag.Bool("version", false, "print the version and end")
	verbose := flag.Bool("v", false, "log debug records too")
	flag.Parse()
	if *show {
		fmt.Println("cvm-supervisor", version.String())
		return
	}
	level := slog.LevelInfo
	if *verbose {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	if err := supervisor.Run(os.Stdin, os.Stdout, log); err != nil {
		log.Error("no machine", "err", err)
		os.Exit(1)
	}
}
