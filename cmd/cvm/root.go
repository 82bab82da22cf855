package main

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/containervm/containervm/internal/version"
)

// app is what every command gets: the standard streams, the directories of this machine and the API's address.
type app struct {
	in       io.Reader
	out, err io.Writer
	paths    paths
	host     string // address of the API; empty: the socket below paths.Run
}

func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "cvm",
		Short: "Run containers as virtual machines",
		Long: `cvm runs every container as a virtual machine of its own.

"cvm up" starts the host of this machine; afterwards the commands below, the docker command line and govc
all work on the same containers.`,
		Example: `  cvm up
  cvm load -i image.tar
  cvm run -it --rm busybox:demo sh
  eval "$(cvm env)"; docker ps; govc ls
  cvm down`,
		Version:       version.String(),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	flags := root.PersistentFlags()
	flags.StringVar(&a.paths.State, "state", a.paths.State, "`DIR` of disks, images, logs and credentials (environment: CVM_STATE)")
	flags.StringVar(&a.paths.Run, "run", a.paths.Run, "`DIR` of sockets (environment: CVM_RUN)")
	flags.StringVarP(&a.host, "host", "H", a.host, "`ADDRESS` of the Docker Engine API (environment: CVM_HOST; default: the socket in --run)")
	root.AddGroup(
		&cobra.Group{ID: groupHost, Title: "The host:"},
		&cobra.Group{ID: groupContainer, Title: "Containers:"},
		&cobra.Group{ID: groupImage, Title: "Images:"},
	)
	addGroup(root, groupHost, upCommand(a), downCommand(a), statusCommand(a), checkCommand(a), envCommand(a), templatesCommand(a), versionCommand(a))
	addGroup(root, groupContainer, runCommand(a), forkCommand(a), psCommand(a), execCommand(a), attachCommand(a), logsCommand(a), startCommand(a),
		stopCommand(a), killCommand(a), waitCommand(a), rmCommand(a), inspectCommand(a))
	addGroup(root, groupImage, imagesCommand(a), loadCommand(a), importCommand(a), pullCommand(a), tagCommand(a), rmiCommand(a))
	root.AddCommand(serveCommand(a))
	return root
}

// Groups of the help page.
const (
	groupHost      = "host"
	groupContainer = "container"
	groupImage     = "image"
)

func addGroup(root *cobra.Command, group string, cmds ...*cobra.Command) {
	for _, c := range cmds {
		c.GroupID = group
		root.AddCommand(c)
	}
}
