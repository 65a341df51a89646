package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// DefaultSocket is the agent's socket where nothing names another.
const DefaultSocket = "/run/spidernet/spiderpool.sock"

// InstallationFile is the name of the file that the installer leaves beside the plugin. Runtimes execute the file that a
// network configuration names as its type, and read configurations that end in .conf, .conflist or .json elsewhere: this
// name is neither.
const InstallationFile = "spiderpool.installation"

// maxFormer bounds the sockets that an installation remembers: nobody moves the socket four times before an agent has
// read the notes beside the first.
const maxFormer = 4

// Installation is what the installer tells the plugin, so that a network configuration need not repeat it.
type Installation struct {
	// Socket is the path of the agent's socket in the form of [SocketPath].
	Socket string `json:"socket"`
	// Former are the sockets of earlier installations, the latest first, 4 at most and none of them Socket. Plugins may
	// have left notes beside them.
	Former []string `json:"former,omitempty"`
}

// ReadInstallation reads the installation of the plugin in dir; called by the plugin, and by the agent, which looks for
// notes beside the former sockets too. If the file is missing, or is not as it should be, which is the error, the
// installation is the default one: a DEL must find a socket whatever became of the file.
func ReadInstallation(dir string) (in Installation, found bool, err error) {
	path := filepath.Join(dir, InstallationFile)
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Installation{Socket: DefaultSocket}, false, nil
	}
	if err == nil {
		err = json.Unmarshal(content, &in)
	}
	for _, socket := range append([]string{in.Socket}, in.Former...) {
		if err == nil {
			_, err = SocketPath(socket)
		}
	}
	if err != nil {
		return Installation{Socket: DefaultSocket}, false, fmt.Errorf("read %s: %w", path, err)
	}
	return in, true, nil
}

// WriteInstallation records the socket beside the plugin in dir, and the one that was recorded before as a former one.
// A plugin that runs meanwhile finds the old file or the new one, whole. Called by the installer.
func WriteInstallation(dir, socket string) error {
	socket, err := SocketPath(socket)
	if err != nil {
		return err
	}
	old, _, _ := ReadInstallation(dir) // a file that cannot be read is replaced: it names no socket that can be known
	former := slices.DeleteFunc(append([]string{old.Socket}, old.Former...), func(s string) bool { return s == socket })
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	recorded := Installation{Socket: socket, Former: former[:min(len(former), maxFormer)]}
	return replaceFile(root, "."+InstallationFile+"-", InstallationFile, recorded, 0o644)
}

// SocketPath returns the form in which paths of sockets are kept and compared, or says what is wrong with one. A socket
// lies below /run, or /var/run, which is the same (FHS 3.0, 5.13) and becomes /run; a tenant may write the path in a
// network configuration, and what the plugin does there it does as root. The kernel takes 107 bytes (unix(7)).
func SocketPath(path string) (string, error) {
	clean := filepath.Clean(path)
	if below, ok := strings.CutPrefix(clean, "/var/run/"); ok {
		clean = filepath.Join("/run", below)
	}
	dotted := slices.Contains(strings.Split(path, "/"), "..")
	if !strings.HasPrefix(clean, "/run/") || dotted || len(clean) > 107 {
		return "", fmt.Errorf("socket %q: want a path below /run or /var/run, without \"..\", of at most 107 bytes", path)
	}
	return clean, nil
}
