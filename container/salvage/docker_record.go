package salvage

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
)

// dockerRecord is one container: config.v2.json (container.Container of moby)
// and hostconfig.json (api/types/container.HostConfig), as far as a runtime spec
// depends on them.
type dockerRecord struct {
	dockerConfig
	host     dockerHostConfig
	hostErr  error // why host is not readable
	readable bool
}

type dockerConfig struct {
	ID      string
	Created storageTime
	Path    string
	Args    []string
	Config  struct {
		Hostname     string
		Domainname   string
		User         string
		ExposedPorts map[string]struct{}
		Tty          bool
		Env          []string
		Image        string
		WorkingDir   string
		Labels       map[string]string
		StopSignal   string
		Healthcheck  *dockerHealth
		Shell        []string // that the line of a CMD-SHELL check is given to
	}
	Image           string                          // the image's id, of its config or its manifest
	ImageManifest   *struct{ Digest digest.Digest } // where containerd has the image
	Name            string
	Driver          string // of storage, or containerd's snapshotter
	MountLabel      string
	ProcessLabel    string
	AppArmorProfile string
	NoNewPrivileges bool
	HostnamePath    string
	HostsPath       string
	ResolvConfPath  string
	MountPoints     map[string]dockerMountPoint
}

type dockerMountPoint struct {
	Source      string
	Destination string
	RW          bool
	Name        string // of a volume
	Driver      string
	Type        string // bind, volume, tmpfs
	Propagation string
	Spec        struct {
		TmpfsOptions *struct {
			SizeBytes int64
			Mode      uint32
		}
	}
}

type dockerHostConfig struct {
	NetworkMode   string
	PortBindings  map[string]json.RawMessage
	RestartPolicy struct {
		Name              string
		MaximumRetryCount int
	}
	CapAdd         []string
	CapDrop        []string
	CgroupnsMode   string
	GroupAdd       []string
	IpcMode        string
	OomScoreAdj    int
	PidMode        string
	Privileged     bool
	ReadonlyRootfs bool
	SecurityOpt    []string
	Tmpfs          map[string]string
	UTSMode        string
	ShmSize        int64
	Sysctls        map[string]string

	CPUShares         int64 `json:"CpuShares"`
	Memory            int64
	NanoCPUs          int64 `json:"NanoCpus"`
	CgroupParent      string
	CPUPeriod         int64 `json:"CpuPeriod"`
	CPUQuota          int64 `json:"CpuQuota"`
	CpusetCpus        string
	CpusetMems        string
	Devices           []dockerDevice
	MemoryReservation int64
	MemorySwap        int64
	MemorySwappiness  *int64
	OomKillDisable    *bool
	PidsLimit         *int64
	Ulimits           []struct {
		Name       string
		Hard, Soft int64
	}
	MaskedPaths   *[]string // absent from records before Docker 18.09
	ReadonlyPaths *[]string
}

type dockerDevice struct{ PathOnHost, PathInContainer, CgroupPermissions string }

// readDockerRecord reads both files. With an error the record may still be
// readable, but not Spec's part of it.
func readDockerRecord(root, id string) (dockerRecord, error) {
	data, err := readBounded(root, filepath.Join(dockerContainers, id, "config.v2.json"), maxDockerRecord)
	if err != nil {
		return dockerRecord{}, err
	}
	host, hostErr := readBounded(root, filepath.Join(dockerContainers, id, "hostconfig.json"), maxDockerRecord)
	record, err := parseDockerRecord(data, host)
	if hostErr != nil {
		record.hostErr = hostErr
	}
	return record, errors.Join(err, record.hostErr)
}

// parseDockerRecord returns an error for config alone; for host see hostErr.
func parseDockerRecord(config, host []byte) (dockerRecord, error) {
	var r dockerRecord
	if err := json.Unmarshal(config, &r.dockerConfig); err != nil {
		return dockerRecord{}, fmt.Errorf("reading config.v2.json of %d bytes: %w", len(config), err)
	}
	r.readable = true
	if err := json.Unmarshal(host, &r.host); err != nil {
		r.hostErr = fmt.Errorf("reading hostconfig.json of %d bytes: %w", len(host), err)
	}
	return r, nil
}

// container describes the record. A name of the kubelet's (dockershim) is taken
// from the labels.
func (r dockerRecord) container(path, id string) Container {
	labels := r.Config.Labels
	c := Container{
		Store: Docker, StorePath: path, ID: id, Name: strings.TrimPrefix(r.Name, "/"), Image: r.Config.Image,
		Created: r.Created.Time, Labels: labels, Pod: labels[labelPod], PodNamespace: labels[labelPodNamespace],
		Sandbox: labels["io.kubernetes.docker.type"] == "podsandbox",
	}
	if image := digest.Digest(r.Image); image.Validate() == nil {
		c.ImageDigest = image
	}
	if manifest := r.ImageManifest; manifest != nil && manifest.Digest.Validate() == nil {
		c.ImageDigest = manifest.Digest
	}
	switch name := labels[labelContainer]; {
	case c.Sandbox:
		c.Name = c.Pod
	case c.Pod != "" && name != "":
		c.Name = c.Pod + "/" + name
	}
	if c.Name == "" {
		c.Name = id
	}
	return c
}

// dataRoot is Docker's data root as the dead host had it. The default is right
// where the record has none of the daemon's own files.
func (r dockerRecord) dataRoot() string {
	for _, file := range []string{r.ResolvConfPath, r.HostsPath, r.HostnamePath} {
		if dir := filepath.Dir(filepath.Dir(file)); filepath.IsAbs(file) && filepath.Base(dir) == dockerContainers {
			return filepath.Dir(dir)
		}
	}
	return "/var/lib/docker"
}
