// Command image makes a container image of static programs, without a container engine:
//
//	go run ./build/image --name ghcr.io/spidernet-io/spiderpool/spiderpool-agent:0.1.0 --out agent.tar \
//		--arch amd64=_output/amd64 --arch arm64=_output/arm64 spiderpool-agent spiderpool
//
// Each program is taken from the directory of each architecture and lies in /usr/bin; the first is the entrypoint. What
// is written is an OCI image layout in a tar archive, of an index with an image for each architecture, as `ctr images
// import` and `skopeo copy --all oci-archive:` read it. The same programs make the same archive, byte for byte. On success
// the reference with its digest is printed.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(args []string, stdout io.Writer) error {
	s, out, err := parse(args)
	if err != nil {
		return err
	}
	index, digest, err := s.index()
	if err != nil {
		return err
	}
	if err := archive(index, out); err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "%s@%s\n", s.name, digest)
	return err
}

// parse reads the command line into what to make, and the file to make.
func parse(args []string) (s spec, out string, err error) {
	flags := flag.NewFlagSet("image", flag.ContinueOnError)
	flags.StringVar(&out, "out", "", "archive to write")
	flags.StringVar(&s.description, "description", "", "what the image is, for a label")
	flags.StringVar(&s.revision, "revision", "", "commit of the source, for a label")
	created := flags.Int64("created", 0, "when the source was made, in seconds since 1970, as SOURCE_DATE_EPOCH gives it")
	flags.Func("name", "reference of the image, REGISTRY/REPOSITORY:TAG", func(text string) (err error) {
		s.name, err = name.NewTag(text, name.StrictValidation)
		return err
	})
	flags.Func("arch", "ARCHITECTURE=DIRECTORY of its programs; once for each architecture", func(text string) error {
		arch, dir, found := strings.Cut(text, "=")
		if machines[arch] == 0 || !found || dir == "" {
			return fmt.Errorf("%q is not amd64=DIRECTORY or arm64=DIRECTORY", text)
		}
		s.platforms = append(s.platforms, platform{arch, dir})
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return s, out, err
	}
	s.programs, s.created = flags.Args(), time.Unix(*created, 0).UTC()
	if out == "" || s.name.TagStr() == "" || len(s.platforms) == 0 || len(s.programs) == 0 {
		return s, out, fmt.Errorf("--name, --out, --arch and the names of programs are needed, see --help")
	}
	return s, out, nil
}
