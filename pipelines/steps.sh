# What the pipelines share: steps that are done once, and that know how long the rest will take. To be sourced, with OUT
# (the folder), LAST (the number of steps) and ANOTHER (the setting that names another folder) in place.
#
#   step NUMBER TITLE COMMAND...       print and run a command, unless it ran to its end before with the same words
#   COST=SECONDS step NUMBER ...       the seconds it is expected to take: then the time left is told
#   MADE=FILE step NUMBER ...          what it has made at its end: a training that is asked to stop ends well, too early;
#                                      once begun, it goes on with the same words alone
#   MODE=plan step NUMBER ...          run nothing: add up what is to be done, and list the commands in $OUT/commands.txt
#   fail TEXT                          a mistake of the user: one line, exit code 2
#   whole_numbers NAME VALUE ...       ends so unless each value is a whole number from 1 up
#   need_ranks NAME RANKS BATCH        ends so unless RANKS divides BATCH and there is mpiexec
#   own_folder                         ends so if $OUT holds folders that a pipeline would replace, and is not of one
#   standing_in HERE GIVEN DEFAULT     the folder GIVEN by a user who stands in HERE; DEFAULT if none is
#
# $OUT/.done/NUMBER holds the words of a step that ran to its end, $OUT/.done/times a line of seconds, number and title
# for each time that a step ran, to its end or not. $OUT/.done/NUMBER.begun holds the words of a training meanwhile.
MODE=run
expected_left=0 # seconds of the steps to be done, at the pace that COST assumes
expected_done=0 # of those that are done,
spent=0         # and what these took in fact
running=

fail() { echo "error: $*" >&2 && exit 2; }

whole_numbers() {
    while [ $# -gt 0 ]; do
        [[ $2 =~ ^[1-9][0-9]{0,8}$ ]] || fail "$1: '$2' is no whole number from 1 up"
        shift 2
    done
}

own_folder() {
    local name
    [ -e "$OUT/.done" ] && return
    for name in camus views sector augmented diffusion results segmentation_data evaluation; do
        [ ! -e "$OUT/$name" ] || fail "$OUT/ holds $name, and is no folder of this pipeline: give another $ANOTHER"
    done
}

# The pipelines go to the project's folder first. A path that is right there too is left as it is: it is shorter.
standing_in() {
    case ${2:-/} in
        /*) printf '%s' "${2:-$3}" ;;
        *) [ "$1" -ef . ] && printf '%s' "$2" || printf '%s' "$1/$2" ;;
    esac
}

need_ranks() {
    [ $(($3 % $2)) = 0 ] || fail "$1: $2 does not divide the batch of $3"
    command -v mpiexec >/dev/null || fail "no mpiexec: 'make setup' installs it into .venv; put .venv/bin on the path"
}

seconds_of() { awk -F '\t' -v number="$1" '$2 == number { sum += $1 } END { print sum + 0 }' "$OUT/.done/times" 2>/dev/null || echo 0; }

note_time() {
    [ -z "$running" ] || printf '%s\t%s\n' $((SECONDS - began)) "$running" >>"$OUT/.done/times"
    running=
}
trap note_time EXIT

# At the pace of the steps done so far, which ten minutes as expected are added to: short steps tell little.
time_left() {
    local left=$((expected_left * (spent + 600) / (expected_done + 600)))
    [ "$left" -le 0 ] || printf 'about %d h %02d min left\n' $((left / 3600)) $((left % 3600 / 60))
}

done_with() {
    expected_done=$((expected_done + ${COST:-0}))
    [ "${COST:-0}" = 0 ] || spent=$((spent + $(seconds_of "$1")))
}

plan() {
    printf '%s\n' "${*@Q}" >>"$OUT/commands.txt"
    [ -e "$OUT/.done/$number" ] || expected_left=$((expected_left + ${COST:-0}))
}

weights_of() { printf '%s/model%06d.pt' "$1" "$2"; } # SAVEDIR STEP

note() { # NAME WORDS
    printf '%s' "$2" >"$OUT/.done/$1.tmp"
    mv "$OUT/.done/$1.tmp" "$OUT/.done/$1"
}

# A command as it can be pasted: words that a shell would take apart are quoted.
quoted() {
    local word text=
    for word in "$@"; do
        case $word in
            '' | *[![:alnum:]_./:,=+@%-]*) word=${word@Q} ;;
        esac
        text+="${text:+ }$word"
    done
    printf '%s' "$text"
}

noted() { # NAME COMMAND...: whether the note is of this command; the first ones were not quoted
    local name=$1 said
    shift
    said=$(cat "$OUT/.done/$name" 2>/dev/null) && { [ "$said" = "$(quoted "$@")" ] || [ "$said" = "$*" ]; }
}

# Whether a training has begun with other words than these: it would go on from there, to another end or to none.
begun_otherwise() { # NUMBER COMMAND...
    local begun=$1.begun
    shift
    [ "${MADE:-}" ] && [ -e "$(dirname "$MADE")" ] && [ -e "$OUT/.done/$begun" ] && ! noted "$begun" "$@"
}

step() {
    local number=$1 title=$2
    shift 2
    if [ "$MODE" = plan ]; then
        plan "$@"
        return
    fi
    printf '\n[%s/%s] %s\n$ %s\n' "$number" "$LAST" "$title" "$(quoted "$@")"
    if noted "$number" "$@"; then
        echo "done before"
        done_with "$number"
        return
    fi
    if [ -e "$OUT/.done/$number" ] || begun_otherwise "$number" "$@"; then
        fail "$OUT/ was made with other settings: delete it, or give another $ANOTHER"
    fi
    time_left
    [ -z "${MADE:-}" ] || note "$number.begun" "$(quoted "$@")"
    began=$SECONDS running=$number$'\t'$title
    "$@"
    note_time
    if [ ! -e "${MADE:-$OUT}" ]; then
        echo "stopped before its end: run the same command again to go on" >&2
        exit 1
    fi
    note "$number" "$(quoted "$@")"
    rm -f "$OUT/.done/$number.begun"
    expected_left=$((expected_left - ${COST:-0}))
    done_with "$number"
}
