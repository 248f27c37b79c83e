# bash completion of userpodctl(1)
_userpodctl() {
  local cur=${COMP_WORDS[COMP_CWORD]} command=${COMP_WORDS[1]:-} words=''
  COMPREPLY=()
  # "image rm" and the like complete as the commands that they are.
  if [ "$command" = image ] && [ "$COMP_CWORD" -gt 2 ]; then
    case ${COMP_WORDS[2]} in
    ls) command=images ;;
    rm) command=rmi ;;
    inspect) command=inspect-image ;;
    *) command=${COMP_WORDS[2]} ;;
    esac
  fi
  if [ "$COMP_CWORD" -eq 1 ]; then
    words='check containers doctor enter image images inspect network pause pods ps pull reset resume rm rmi start status stop top version --help --version'
  elif [ "$command" = image ]; then
    words='inspect ls prune pull rm --help'
  elif [ "$command" = top ] && [ "${COMP_WORDS[COMP_CWORD-1]}" = --sort ]; then
    words='cpu io memory name net pids'
  elif [[ $cur == -* ]]; then
    words='-h --help --json'
    case $command in
    start|pause|resume) words+=' --force-managed' ;;
    stop) words+=' --force-managed -t --time' ;;
    rm) words+=' -f --force --force-managed' ;;
    reset) words+=' -y --yes' ;;
    check) words+=' --deep --repair -y --yes' ;;
    top) words+=' --interval --once --sort' ;;
    images) words+=' --digests --no-trunc -q --quiet' ;;
    pull) words+=' --identity-token-stdin --password-stdin -q --quiet -u --username' ;;
    prune) words+=' -a --all -n --dry-run -y --yes' ;;
    esac
  else
    # Ids are asked for only where the daemon runs: completion starts nothing.
    systemctl --user -q is-active userpod.service 2>/dev/null || return 0
    case $command in
    start|pause|resume) words=$(userpodctl containers 2>/dev/null | awk 'NR > 1 { print $1 }') ;;
    stop|rm) words=$({ userpodctl containers; userpodctl pods; } 2>/dev/null | awk '$1 != "ID" { print $1 }') ;;
    inspect) words=$({ userpodctl containers; userpodctl pods; userpodctl images; } 2>/dev/null | awk '$1 != "ID" { print $1 }') ;;
    network) words=$(userpodctl pods 2>/dev/null | awk 'NR > 1 { print $1 }') ;;
    rmi|inspect-image) words=$(userpodctl images --quiet 2>/dev/null) ;;
    enter) mapfile -t COMPREPLY < <(compgen -c -- "$cur"); return 0 ;;
    esac
  fi
  mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
}
complete -F _userpodctl userpodctl
