// Command lab starts, shows and ends Kubernetes clusters with underlay networks
// on this machine; see package lab.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/spidernet-io/spiderpool/test/lab"
	"github.com/spidernet-io/spiderpool/test/lab/parts"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	root := &cobra.Command{
		Use:           "lab",
		Short:         "A Kubernetes of several nodes with underlay networks on this machine",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	name := root.PersistentFlags().String("name", "lab", "name of the instance; several run side by side")
	root.AddCommand(build(), up(name), down(name), status(name), run(name), load(name), cni(name), node(name))
	return root
}

func build() *cobra.Command {
	return &cobra.Command{
		Use: "build", Short: "Build all programs of the lab, once", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := lab.Build(cmd.Context(), os.Stderr, true); err != nil {
				return err
			}
			for _, tool := range []string{"helm", "certissuer"} {
				if _, err := parts.Bin(cmd.Context(), os.Stderr, tool); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

func up(name *string) *cobra.Command {
	var c lab.Config
	cmd := &cobra.Command{
		Use: "up", Short: "Start a cluster and print its kubeconfig", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c.Name = *name
			l, err := lab.Up(cmd.Context(), c)
			if err != nil {
				return err
			}
			fmt.Println(l.Kubeconfig())
			return nil
		},
	}
	cmd.Flags().IntVar(&c.Nodes, "nodes", 2, "number of nodes")
	cmd.Flags().StringVar((*string)(&c.Families), "families", string(lab.DualStack), "IP families of the cluster: ipv4, ipv6 or dual")
	cmd.Flags().StringVar(&c.Multus, "multus", "", "install Multus; every pod's eth0 is of this CNI network, or NetworkAttachmentDefinition in kube-system")
	return cmd
}

func down(name *string) *cobra.Command {
	return &cobra.Command{
		Use: "down", Short: "End a cluster and leave nothing of it", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return lab.Down(cmd.Context(), *name) },
	}
}

func status(name *string) *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show a cluster's processes, logs and kubeconfig, or which clusters there are", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := lab.Open(*name)
			if err != nil {
				names, _ := lab.Names()
				return fmt.Errorf("%w (there are: %q)", err, names)
			}
			lines, err := l.Processes()
			for _, line := range lines {
				fmt.Println(line)
			}
			fmt.Println("KUBECONFIG=" + l.Kubeconfig())
			return err
		},
	}
}

func run(name *string) *cobra.Command {
	cmd := &cobra.Command{
		Use: "exec NODE [--] COMMAND...", Short: "Run a command on a node", Args: cobra.MinimumNArgs(1), DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			command, err := onNode(args)
			if err != nil {
				return err
			}
			l, err := lab.Open(*name)
			if err != nil {
				return err
			}
			c := l.NodeCommand(cmd.Context(), args[0], command...)
			c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
			err = c.Run()
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				os.Exit(exit.ExitCode()) // the command has said why
			}
			return err
		},
	}
	cmd.Flags().SetInterspersed(false)
	return cmd
}

// onNode is the command for a node, behind the node's name and a "--" that may stand between them: flags end at the name,
// so cobra leaves the "--" in place.
func onNode(args []string) ([]string, error) {
	command := args[1:]
	if len(command) > 0 && command[0] == "--" {
		command = command[1:]
	}
	if len(command) == 0 {
		return nil, fmt.Errorf("no command for %s: lab exec %[1]s -- COMMAND", args[0])
	}
	return command, nil
}

func load(name *string) *cobra.Command {
	return &cobra.Command{
		Use: "load ARCHIVE...", Short: "Bring the images of archives to every node", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := lab.Open(*name)
			if err != nil {
				return err
			}
			for _, a := range args {
				if a, err = filepath.Abs(a); err != nil {
					return err
				}
				if err := l.LoadImage(cmd.Context(), a); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

func cni(name *string) *cobra.Command {
	var on string
	cmd := &cobra.Command{
		Use: "cni FILE...", Short: "Put CNI configurations into /etc/cni/net.d of nodes", Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			l, err := lab.Open(*name)
			if err != nil {
				return err
			}
			for _, file := range args {
				data, err := os.ReadFile(file)
				if err != nil {
					return err
				}
				if err := l.WriteCNI(on, filepath.Base(file), string(data)); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&on, "node", "", "only on this node; default all")
	return cmd
}

func node(name *string) *cobra.Command {
	verbs := map[string]func(context.Context, *lab.Lab, string) error{
		"stop":          func(ctx context.Context, l *lab.Lab, n string) error { return l.StopNode(ctx, n) },
		"start":         func(ctx context.Context, l *lab.Lab, n string) error { return l.StartNode(ctx, n) },
		"delete":        func(ctx context.Context, l *lab.Lab, n string) error { return l.DeleteNode(ctx, n) },
		"stop-kubelet":  func(ctx context.Context, l *lab.Lab, n string) error { return l.StopKubelet(ctx, n) },
		"start-kubelet": func(ctx context.Context, l *lab.Lab, n string) error { return l.StartKubelet(ctx, n) },
	}
	return &cobra.Command{
		Use: "node stop|start|delete|stop-kubelet|start-kubelet NODE", Short: "Power a node off or on, delete it, stop or start its kubelet", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			verb, ok := verbs[args[0]]
			if !ok {
				return fmt.Errorf("%q: use stop, start, delete, stop-kubelet or start-kubelet", args[0])
			}
			l, err := lab.Open(*name)
			if err != nil {
				return err
			}
			return verb(cmd.Context(), l, args[1])
		},
	}
}
