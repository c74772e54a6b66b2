# SPDX-License-Identifier: Apache-2.0
"""Shell completion of the commands, by shtab from the parser itself. No Python is started for it."""

import argparse
import shlex

import shtab

from exporter import catalog, cli
from exporter.probe import FAMILIES, ON_INTERFACES

_SPDX = "# SPDX-License-Identifier: Apache-2.0\n"

# What a config runs: the keys of "probes:", "  file_io: {}" -> "file_io". They stand as deep as the first of them.
_KEYS = (
    'awk -F "[ :]+" \'/^[a-z]/ {inside = $1 == "probes"; depth = 0}'
    " inside && /^ +[a-z][a-z0-9_]*:/ {at = match($0, /[a-z]/); if (!depth) depth = at; if (at == depth) print $2}'"
)
_SHIPPED = " ".join(sorted(path.stem for path in catalog.SHIPPED.glob("*.yaml")))
_HOOKS = " ".join(f"{family}:" for family in FAMILIES if family not in ON_INTERFACES)  # what `list` lists

# $1: a config, as it was typed. Where it has no probes that can be read, those that are shipped.
_NAMES = f"""\
_ebpf_exporter_names() {{
  local config="${{1:-{cli.DEFAULT_CONFIG}}}" names=
  config=${{config/#\\~\\//$HOME/}}
  # a terminal or a FIFO might never end
  [[ ! -f $config || ! -r $config ]] || names=$({_KEYS} <"$config")
  if [[ -n $names ]]; then echo "$names"; else printf '%s\\n' {_SHIPPED}; fi
}}
"""

_PREAMBLE = {
    "bash": f"""\
{_NAMES}
# $1: the word that is completed; so for all that shtab's function calls
_ebpf_exporter_probes() {{
  local at config=
  for ((at = 1; at < COMP_CWORD; at++)); do
    [[ ${{COMP_WORDS[at - 1]}} != --config ]] || config=${{COMP_WORDS[at]}}
  done
  compgen -W "$(_ebpf_exporter_names "$config")" -- "$1"
}}

_ebpf_exporter_hooks() {{
  compgen -W "{_HOOKS}" -- "$1"
}}

# shtab expects a word to be what is between spaces; readline splits --config=FILE and http://HOST:PORT at = and :
_ebpf_exporter() {{
  local at word glued= words=() breaks=${{COMP_WORDBREAKS//[^:=]/}}
  for ((at = 0; at <= COMP_CWORD; at++)); do
    word=${{COMP_WORDS[at]}}
    if [[ $word == = && ${{words[-1]}} == --* ]]; then
      glued=
      ((at < COMP_CWORD)) || words+=("")
    elif [[ $word =~ ^[:=]+$ ]]; then
      glued=yes
      words[-1]+=$word
    elif [[ -n $glued ]]; then
      glued=
      words[-1]+=$word
    else
      words+=("$word")
    fi
  done
  local COMP_WORDS=("${{words[@]}}") COMP_CWORD=$((${{#words[@]}} - 1))
  _shtab_ebpf_exporter "$@"
  [[ ${{COMPREPLY[0]-}} != *: ]] || compopt -o nospace
  word=${{words[COMP_CWORD]}}
  [[ -z $breaks ]] || COMPREPLY=("${{COMPREPLY[@]#"${{word%"${{word##*[$breaks]}}"}}"}}")
}}
""",
    "zsh": f"""\
{_NAMES}
_ebpf_exporter_probes() {{
  local names=(${{(f)"$(_ebpf_exporter_names "${{(Q)opt_args[--config]}}")"}})
  compadd "$@" -a names
}}

_ebpf_exporter_hooks() {{
  compadd "$@" -S '' -- {_HOOKS}
}}
""",
    "fish": f"""\
function _ebpf_exporter_probes
  set -l config {cli.DEFAULT_CONFIG}
  set -l before
  for word in (commandline -opc)
    test "$before" = --config; and set config (string replace -r '^~/' "$HOME/" -- $word)
    string match -q -- '--config=*' $word; and set config (string replace -- --config= '' $word)
    set before $word
  end
  set -l names
  test -f "$config" -a -r "$config"; and set names ({_KEYS} <$config)
  test (count $names) -gt 0; or set names {_SHIPPED}
  printf '%s\\n' $names
end
""",
}

_PROBES = {"bash": "_ebpf_exporter_probes", "zsh": "_ebpf_exporter_probes", "fish": "(_ebpf_exporter_probes)"}
_PATTERN = {"bash": "_ebpf_exporter_hooks", "zsh": "_ebpf_exporter_hooks", "fish": _HOOKS}
_BY_METAVAR = {"FILE": shtab.FILE, "PROBE": _PROBES, "PATTERN": _PATTERN}


def _parser() -> argparse.ArgumentParser:
    """Returns the parser, with what shtab is to know of it."""
    parser = cli.parser()
    [commands] = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for short in commands._get_subactions():  # one line in a list, which the whole description is too long for
        commands.choices[short.dest].description = short.help
    for command in commands.choices.values():
        for action in command._actions:
            if isinstance(action.metavar, str) and action.metavar in _BY_METAVAR:
                action.complete = _BY_METAVAR[action.metavar]
    return parser


def texts() -> dict[str, str]:
    parser = _parser()
    bash, zsh, fish = (
        "".join(f"{line.rstrip()}\n" for line in shtab.complete(parser, shell, preamble=text).rstrip().splitlines())
        for shell, text in _PREAMBLE.items()
    )
    bash = bash.replace("compgen -f -- $1 ", 'compgen -f -- "$1" ')  # else a * is what it stands for
    first, _, rest = zsh.partition("\n")  # compinit reads the first line
    name = shlex.quote(parser.prog)
    return {
        # of two such lines bash takes the last
        "deploy/completion/bash/ebpf-exporter": f"{_SPDX}{bash}complete -o bashdefault -F _ebpf_exporter {name}\n",
        "deploy/completion/zsh/_ebpf-exporter": f"{first}\n{_SPDX}{rest}",
        "deploy/completion/fish/ebpf-exporter.fish": f"{_SPDX}{fish}",
    }
