// Command controller serves the Docker Engine API for a vSphere host: every container is a virtual machine there.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/controller/daemon"
	"github.com/containervm/containervm/internal/ready"
	"github.com/containervm/containervm/internal/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	c, readyFD := config()
	err := daemon.Run(ctx, c, func() {
		c.Log.Info("serving the Docker Engine API", "socket", c.Socket, "host", c.VSphereURL)
		if err := ready.Say(readyFD, struct{ Socket string }{c.Socket}); err != nil {
			c.Log.Warn("whoever started this daemon does not hear of it", "err", err)
		}
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "controller:", err)
		os.Exit(1)
	}
}

// config reads the command line, and the environment for what govc takes from there too: a password on a command line
// is everybody's.
func config() (_ daemon.Config, readyFD int) {
	c := daemon.Config{Password: os.Getenv("GOVC_PASSWORD")}
	flag.StringVar(&c.Socket, "socket", "/run/containervm/docker.sock", "`path` of the API's unix socket")
	flag.StringVar(&c.VSphereURL, "host", os.Getenv("GOVC_URL"), "`URL` of the vSphere host (GOVC_URL)")
	flag.StringVar(&c.Username, "user", os.Getenv("GOVC_USERNAME"), "`name` to log in with (GOVC_USERNAME); the password is GOVC_PASSWORD")
	flag.StringVar(&c.CAFile, "ca", os.Getenv("GOVC_TLS_CA_CERTS"), "`file` with the certificate authorities to trust (GOVC_TLS_CA_CERTS)")
	flag.BoolVar(&c.Insecure, "insecure", os.Getenv("GOVC_INSECURE") == "1" || os.Getenv("GOVC_INSECURE") == "true", "accept any certificate (GOVC_INSECURE)")
	flag.StringVar(&c.Network, "network", "", "`name` of the host's network that is the network bridge; empty: VM Network, or the only one")
	flag.TextVar(&c.Bridge, "bridge", netip.Prefix{}, "`subnet` of the network bridge when it is first made; empty: 172.17.0.0/16, or the next that is free")
	flag.Func("resolver", "`address` of a name server of containers, on a host that resolves no names itself; may be repeated", func(text string) error {
		a, err := netip.ParseAddr(text)
		c.Resolvers = append(c.Resolvers, a)
		return err
	})
	flag.IntVar(&c.Templates, "templates", daemon.DefaultTemplates, "keep at most this `number` of templates for containers to be forked from; 0: every container boots")
	flag.IntVar(&c.Warm, "warm", 0, "keep this `number` of machines forked ahead of time")
	flag.IntVar(&readyFD, "ready-fd", -1, "inherited `descriptor` to write the socket's path to, as a line of JSON when it serves")
	verbose := flag.Bool("v", false, "log debug records too")
	show := flag.Bool("version", false, "print the version and end")
	flag.Parse()
	if *show {
		fmt.Println("controller", version.String())
		os.Exit(0)
	}
	level := slog.LevelInfo
	if *verbose {
		level = slog.LevelDebug
	}
	c.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	return c, readyFD
}
