package salvage

// Annotations on a spec that was converted from another engine's record. They
// hold what a runtime spec has no field for; a caller acts on them or not.
const (
	// AnnotationUser is a user by name, "name[:group]", to look up in the root
	// file system's own passwd and group. A numeric one is in Process.User.
	AnnotationUser = "org.blackstart.user"
	// AnnotationPorts lists the ports served, comma separated: "2379/tcp,53/udp".
	AnnotationPorts = "org.blackstart.ports"
	// AnnotationRestart is the restart policy: "always", "unless-stopped" or
	// "on-failure[:COUNT]".
	AnnotationRestart = "org.blackstart.restart"
	// AnnotationHealth is the health check as a JSON array: in Docker's form, ["CMD",
	// ARG…] or ["CMD-SHELL", LINE], or ["HTTP", URL] or ["TCP", IP:PORT].
	AnnotationHealth = "org.blackstart.health"
	// AnnotationStopSignal is the signal that asks for an orderly end: a name or number.
	AnnotationStopSignal = "org.blackstart.stop-signal"
	// AnnotationSeccomp is "default" where the engine used its built-in seccomp
	// profile: the caller applies its own.
	AnnotationSeccomp = "org.blackstart.seccomp"
)
