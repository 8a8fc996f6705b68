package runbooks

// A struct's tags are the language's only table: the reader, the checks and the schema all work from them.
//
//	yaml   the key
//	about  what it means, for the schema's reader
//	rule   required; one, for keys of which exactly one is there; and the kind of text:
//	       line, text, script, id, var, path
//	kinds  the keys marked one, here or in the mapping above, that it goes with; absent: all

// Runbook says how a service is brought back.
type Runbook struct {
	node     `yaml:"-"`
	Title    string          `yaml:"runbook" rule:"required,line" about:"what is brought back, and from what"`
	Summary  string          `yaml:"summary" rule:"text" about:"when to use it and what it leaves, in a few sentences"`
	Service  string          `yaml:"service" rule:"required,id" about:"the service that it brings back"`
	Owner    string          `yaml:"owner" rule:"line" about:"who keeps it right"`
	Contacts []string        `yaml:"contacts" rule:"line" about:"whom to call: sip:, tel: or mailto: URIs, or names of the kit's contacts"`
	Hosts    []string        `yaml:"hosts" rule:"id" about:"the hosts that steps name; each gets its address with --host NAME=IP"`
	Vars     map[string]*Var `yaml:"vars" rule:"var" about:"what differs from one site or day to another"`
	Steps    []*Step         `yaml:"steps" rule:"required" about:"what is done; each follows the one above unless needs says otherwise"`
}

// Var is a variable. Without a default it must be given.
type Var struct {
	node    `yaml:"-"`
	About   string  `yaml:"about" rule:"line" about:"what it is"`
	Default *string `yaml:"default" rule:"value" about:"its value if none is given"`
	Secret  bool    `yaml:"secret" about:"keep its value out of everything shown and recorded; it has no default"`
}

// Step is one thing to do. Exactly one of the fields Run to Note is there, see Kind.
type Step struct {
	node `yaml:"-"`
	Name string `yaml:"name" rule:"required,line" about:"what it does, in a few words; other steps need it by this name"`

	Run       string `yaml:"run" rule:"one,script" about:"shell commands, for sh -eu"`
	Fetch     string `yaml:"fetch" rule:"one,line" about:"an artifact of the kit to bring to the host"`
	Container string `yaml:"container" rule:"one,id" about:"a recovery container to start in the background: a service of the kit, unless with says otherwise"`
	Stop      string `yaml:"stop" rule:"one,id" about:"a recovery container to stop"`
	DNS       string `yaml:"dns" rule:"one,dns" about:"failsafe names"`
	Cert      string `yaml:"cert" rule:"one,id" about:"a service that gets an emergency certificate"`
	WaitFor   *Probe `yaml:"wait_for" rule:"one" about:"something that must become true"`
	Confirm   string `yaml:"confirm" rule:"one,text" about:"a question that a person must answer with yes"`
	Handoff   string `yaml:"handoff" rule:"one,id" about:"a recovery container whose service goes back to its orchestrator"`
	Note      string `yaml:"note" rule:"one,text" about:"something a person must know now"`

	With    *With    `yaml:"with" kinds:"run fetch container stop dns cert handoff" about:"how it is done"`
	Needs   []string `yaml:"needs" rule:"line" about:"the steps that must be done before; absent: the step above"`
	When    string   `yaml:"when" rule:"script" about:"a shell command; a non-zero exit leaves the step out"`
	Check   string   `yaml:"check" rule:"script" kinds:"run fetch container stop dns cert handoff" about:"a shell command; exit 0 says that the work is done already"`
	Undo    string   `yaml:"undo" rule:"script" kinds:"run fetch container stop dns cert handoff" about:"shell commands that take the step back"`
	Timeout Duration `yaml:"timeout" kinds:"run fetch container stop dns cert confirm handoff" about:"how long one attempt may take; 10m if absent, without bound for confirm" json:",omitzero"`
	Retries int      `yaml:"retries" rule:"max=100" kinds:"run fetch container stop dns cert handoff" about:"attempts after the first, with growing pauses"`
	Takes   Duration `yaml:"takes" about:"how long it is expected to take" json:",omitzero"`
	Hosts   []string `yaml:"hosts" rule:"id" kinds:"run fetch container stop dns cert wait_for handoff" about:"where it is done, all at once; absent: here"`
}

// With is how a step is done; which fields there are depends on the step's kind.
type With struct {
	node `yaml:"-"`

	Env map[string]string `yaml:"env" rule:"env" kinds:"run container" about:"environment variables"`
	Dir string            `yaml:"dir" rule:"path" kinds:"run" about:"the directory it starts in"`

	To     string `yaml:"to" rule:"path" kinds:"fetch cert" about:"the file, or for cert the directory, to write"`
	Mode   string `yaml:"mode" rule:"mode" kinds:"fetch" about:"the file's permissions, in octal"`
	Unpack bool   `yaml:"unpack" kinds:"fetch" about:"unpack an image, so that a container starts at once"`

	Salvage     string   `yaml:"salvage" rule:"line" kinds:"container" about:"start this container of the dead orchestrator, as salvage list names it"`
	Root        string   `yaml:"root" rule:"path" kinds:"container" about:"where the dead host's disk is mounted"`
	Spec        string   `yaml:"spec" rule:"line" kinds:"container" about:"start from this file, or kit:NAME"`
	Image       string   `yaml:"image" rule:"line" kinds:"container" about:"oci:DIR[:TAG], docker-archive:FILE or kit:NAME"`
	Rootfs      string   `yaml:"rootfs" rule:"path" kinds:"container" about:"a directory to use as root filesystem"`
	Command     []string `yaml:"command" rule:"value" kinds:"container" about:"the whole command line"`
	Args        []string `yaml:"args" rule:"value" kinds:"container" about:"arguments added at the end"`
	ReplaceArgs []string `yaml:"replace_args" rule:"value" kinds:"container" about:"OLD=NEW: puts an argument in the place of another"`
	DropArgs    []string `yaml:"drop_args" rule:"value" kinds:"container" about:"arguments to leave out"`
	Mounts      []string `yaml:"mounts" rule:"line" kinds:"container" about:"SRC:DST[:ro]"`
	Net         string   `yaml:"net" rule:"net" kinds:"container" about:"host or none"`
	User        string   `yaml:"user" rule:"line" kinds:"container" about:"USER[:GROUP]"`
	Workdir     string   `yaml:"workdir" rule:"path" kinds:"container" about:"the directory it starts in"`
	Memory      Bytes    `yaml:"memory" kinds:"container" about:"limit" json:",omitzero"`
	CPUs        float64  `yaml:"cpus" rule:"max=4096" kinds:"container" about:"limit, in processors"`
	Restart     string   `yaml:"restart" rule:"restart" kinds:"container" about:"when to start it again"`
	Health      string   `yaml:"health" rule:"line" kinds:"container" about:"http://IP:PORT/PATH, tcp://IP:PORT, unix:///PATH or exec:COMMAND"`

	Grace  Duration `yaml:"grace" kinds:"stop handoff" about:"time before SIGKILL" json:",omitzero"`
	Remove bool     `yaml:"remove" kinds:"stop" about:"remove its log and writable layer too"`
	Until  string   `yaml:"until" rule:"required,line" kinds:"handoff" about:"http://IP:PORT/PATH, tcp://IP:PORT, unix:///PATH or exec:COMMAND that the orchestrator's own instance answers"`

	StopFirst bool `yaml:"stop_first" kinds:"handoff" about:"stop the recovery container before waiting: the other instance needs its data or ports"`

	Listen    []string          `yaml:"listen" rule:"line" kinds:"dns" about:"IP:PORT"`
	Answers   string            `yaml:"answers" rule:"answers" kinds:"dns" about:"auth: from frozen data; lkg: upstream first, last known good; pin: overrides win"`
	Zone      string            `yaml:"zone" rule:"path" kinds:"dns" about:"a zone file in place of the kit's names"`
	Upstream  []string          `yaml:"upstream" rule:"line" kinds:"dns" about:"IP[:PORT] of resolvers"`
	Overrides map[string]string `yaml:"overrides" rule:"name" kinds:"dns" about:"names and the addresses they get"`

	Names     []string `yaml:"names" rule:"line" kinds:"cert" about:"DNS names in the certificate"`
	Addresses []string `yaml:"addresses" rule:"line" kinds:"cert" about:"IP addresses in the certificate"`
	URIs      []string `yaml:"uris" rule:"line" kinds:"cert" about:"URIs in the certificate"`
	For       Duration `yaml:"for" kinds:"cert" about:"how long it is good" json:",omitzero"`
}

// Probe is something that is or is not true of the world. Exactly one of TCP to Unix is there, see Kind.
type Probe struct {
	node     `yaml:"-"`
	TCP      string   `yaml:"tcp" rule:"one,line" about:"IP:PORT that accepts a connection"`
	HTTP     string   `yaml:"http" rule:"one,line" about:"URL, with an IP address as host, that answers"`
	DNS      string   `yaml:"dns" rule:"one,line" about:"NAME [TYPE] @IP[:PORT] that is answered"`
	Exec     string   `yaml:"exec" rule:"one,script" about:"a shell command that exits with 0"`
	File     string   `yaml:"file" rule:"one,path" about:"a path that exists"`
	Log      string   `yaml:"log" rule:"one,line" about:"a container's name, or the path of a log; contains says what to find in it"`
	Unix     string   `yaml:"unix" rule:"one,path" about:"path of a socket that accepts a connection"`
	Contains string   `yaml:"contains" rule:"value" kinds:"http dns exec file log" about:"text that must be in what it gives"`
	Status   int      `yaml:"status" rule:"min=100,max=599" kinds:"http" about:"the status it must answer with; any 2xx if absent"`
	Within   Duration `yaml:"within" about:"how long to wait for it; 60s if absent" json:",omitzero"`
	Hold     Duration `yaml:"hold" about:"how long it must stay true" json:",omitzero"`
}
