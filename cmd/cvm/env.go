package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// variable is one variable of the environment; the order is kept for people.
type variable struct{ name, value string }

func envCommand(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "env",
		Short: "Print the environment for docker and govc",
		Long: `Print shell commands that set DOCKER_HOST and govc's variables for the running host.

The output holds the password of the vSphere API.`,
		Example: `  eval "$(cvm env)"
  cvm env --json | jq -r .GOVC_URL`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := runningHost(cmd.Context(), a.paths)
			if err != nil {
				return err
			}
			return printEnv(a, environment(s), asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

// environment is what the docker and govc commands read.
func environment(s hostStatus) []variable {
	vars := []variable{
		{"DOCKER_HOST", s.DockerHost},
		{"GOVC_URL", s.VSphere.URL},
		{"GOVC_USERNAME", s.VSphere.Username},
		{"GOVC_PASSWORD", s.VSphere.Password},
	}
	if s.VSphere.CAFile == "" {
		return append(vars, variable{"GOVC_INSECURE", "true"})
	}
	return append(vars, variable{"GOVC_TLS_CA_CERTS", s.VSphere.CAFile})
}

func printEnv(a *app, vars []variable, asJSON bool) error {
	if !asJSON {
		for _, v := range vars {
			fmt.Fprintf(a.out, "export %s=%s\n", v.name, shellQuote(v.value))
		}
		return nil
	}
	object := make(map[string]string, len(vars))
	for _, v := range vars {
		object[v.name] = v.value
	}
	return a.printJSON(object)
}

// shellQuote makes one word of s for a POSIX shell: nothing inside single quotes is special but the quote itself.
func shellQuote(s string) string {
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
