package drill

import "strings"

// bashRC makes a bash tell what is typed into it. @WORD@ stands for the drill's word.
//
// What is told is each line as bash's own history has it, when it begins and with
// the status it ends with. What is typed into a program that it starts, such as an
// editor or another shell, is not told.
const bashRC = `
unset HISTFILE PROMPT_COMMAND HISTIGNORE HISTTIMEFORMAT IGNOREEOF
HISTCONTROL= HISTSIZE=100000
set -o history
shopt -s cmdhist lithist checkwinsize
__drill() { builtin printf '\033]7717;@WORD@;%s\007' "$1" >/dev/tty; }
__drill_began() {
	local h c
	h=$(builtin history 1)
	[[ $h =~ ^[[:space:]]*[0-9]+[*]?[[:space:]]+(.*)$ ]] && c=${BASH_REMATCH[1]}
	c=${c:0:4000}
	c=${c//\\/\\\\}
	c=${c//$'\n'/\\n}
	__drill "C;${c//[[:cntrl:]]/ }"
}
__drill_ended() { __drill "E;$1"; }
hint() { __drill H; }
steps() { __drill L; }
on() { local x; __drill "V;$1"; IFS= read -rs x </dev/tty; }
export -f hint steps __drill
PS0='$(__drill_began)'
PROMPT_COMMAND='__drill_ended "$?"'
PS1='\[\033]7717;@WORD@;R\007\]@PROMPT@ \w \$ '
PS2='\[\033]7717;@WORD@;R\007\]> '
`

// shRC is for another shell: it says when it is ready, and not what it runs.
const shRC = `
__drill() { printf '\033]7717;@WORD@;%s\007' "$1" >/dev/tty; }
hint() { __drill H; }
steps() { __drill L; }
on() { __drill "V;$1"; IFS= read -r REPLY </dev/tty; }
PS1="$(printf '\033]7717;@WORD@;R\007')@PROMPT@ \$ "
PS2="$(printf '\033]7717;@WORD@;R\007')> "
`

// rcPath is where the shell's commands are in a vacuum.
const rcPath = "/run/blackstart-drill/shell"

// shellOf is the command of a drill's shell, and what it reads first.
func shellOf(bash bool, word, prompt string) (args []string, rc string) {
	fill := strings.NewReplacer("@WORD@", word, "@PROMPT@", prompt)
	if bash {
		return []string{"bash", "--noprofile", "--rcfile", rcPath, "-i"}, fill.Replace(bashRC)
	}
	return []string{"/bin/sh", "-i"}, fill.Replace(shRC) // which $ENV names
}
