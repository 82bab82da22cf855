// Command cvm-switch is the switch of one network: see package internal/netswitch/core. The daemon starts it.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/containervm/containervm/hostd-bridge/internal/netswitch/core"
	"github.com/containervm/containervm/internal/version"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == "--version" {
		fmt.Println("cvm-switch", version.String())
		return
	}
	dir := flag.String("dir", "", "`DIRECTORY` of the switch's sockets, lock and log")
	name := flag.String("name", "", "`NAME` of the network")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
	if err := core.Run(ctx, *dir, *name, os.Stdout, os.Stderr); err != nil {
		slog.New(slog.NewTextHandler(os.Stderr, nil)).Error("no switch", "err", err)
		os.Exit(1)
	}
}
