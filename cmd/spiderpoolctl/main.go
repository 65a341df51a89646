// Command spiderpoolctl is for administrators: who gets which address, and why
// not.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/internal/apiclient"
	"github.com/spidernet-io/spiderpool/internal/buildinfo"
	"github.com/spidernet-io/spiderpool/internal/ctl"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := rootCommand().ExecuteContext(ctx); err != nil {
		stop()
		os.Exit(1)
	}
}

func rootCommand() *cobra.Command {
	var kubeconfig string
	root := &cobra.Command{
		Use:   "spiderpoolctl",
		Short: "Says from which pools a pod gets its addresses, and why not from others",
		Long: `spiderpoolctl says from which pools a pod gets its addresses, and why not from others.

It reads from the API server, as the user of the kubeconfig, and changes nothing. That user needs to
read pods and what controls them, nodes, namespaces, DaemonSets, ConfigMaps,
NetworkAttachmentDefinitions and all kinds of Spiderpool. Who has which address is in 'kubectl get spiderips'.`,
		Example:           "  spiderpoolctl explain pod shop/web-0 --interface net1",
		Version:           buildinfo.Version(),
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.PersistentFlags().StringVar(&kubeconfig, "kubeconfig", "", "path of the kubeconfig; default: as kubectl finds it")
	root.AddCommand(explainCommand(&kubeconfig))
	return root
}

func explainCommand(kubeconfig *string) *cobra.Command {
	explain := &cobra.Command{Use: "explain", Short: "Say what the agents would do, and why"}
	var ifname string
	pod := &cobra.Command{
		Use:   "pod NAMESPACE/NAME",
		Short: "Say from which pools an interface of a pod is served, and why not from others",
		Long: `Say from which pools an interface of a pod is served, in which order they are tried, how many addresses
each has free and who holds them, and why other pools do not serve. If the pod has fixed addresses, say
which are kept for it and whether it gets them at its next start. Nothing is claimed.`,
		Example: "  spiderpoolctl explain pod shop/web-0\n  spiderpoolctl explain pod shop/web-0 --interface net1",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return fmt.Errorf("%d arguments: want one pod, as NAMESPACE/NAME", len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := ctl.ParsePod(args[0])
			if err != nil {
				return err
			}
			c, err := connect(*kubeconfig)
			if err != nil {
				return err
			}
			return ctl.Explain(cmd.Context(), c, key, ifname, cmd.OutOrStdout())
		},
	}
	pod.Flags().StringVar(&ifname, "interface", "eth0", "interface of the pod")
	explain.AddCommand(pod)
	return explain
}

func connect(kubeconfig string) (client.Client, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = kubeconfig
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("find the API server: %w", err)
	}
	scheme := apiclient.Scheme()
	if err := appsv1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	return client.New(config, client.Options{Scheme: scheme})
}
