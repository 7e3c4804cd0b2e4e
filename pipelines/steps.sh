# What the pipelines share: steps that are done once, and that know how long the rest will take. To be sourced, with OUT
# (the folder), LAST (the number of steps) and ANOTHER (the setting that names another folder) in place.
#
#   step NUMBER TITLE COMMAND...       print and run a command, unless it ran to its end before with the same words
#   NAME=WORD step NUMBER ...          what it is known by, if not its number: then others may come before it later
#   COST=SECONDS step NUMBER ...       the seconds it is expected to take: then the time left is told
#   MADE=FILE step NUMBER ...          what it has made at its end: a training that is asked to stop ends well, too early;
#                                      once begun, it goes on with the same words alone
#   MODE=plan step NUMBER ...          run nothing: add up what is to be done, and list the commands in $OUT/commands.txt
#   fail TEXT                          a mistake of the user: one line, exit code 2
#   whole_numbers NAME VALUE ...       ends so unless each value is a whole number from 1 up
#   need_ranks NAME RANKS BATCH        ends so unless RANKS divides BATCH and there is mpiexec
#   choose_device NAME VALUE           sets DEVICE and GPU, the flags of the two folders that compute: cpu, or cuda
#   own_folder                         ends so if $OUT holds folders that a pipeline would replace, and is not of one
#   make_folder                        makes $OUT, or ends so
#   standing_in HERE GIVEN DEFAULT     the folder GIVEN by a user who stands in HERE; DEFAULT if none is
#
# $OUT/.done/NAME holds the words of a step that ran to its end, and in a second line those of them that count: the result
# is the same whatever shares the work, however often it is saved, and wherever $OUT lies. NAME.begun is of a training
# meanwhile.
# $OUT/.done/times has a line of seconds, name and title for each time that a step ran, to its end or not.
MODE=run
expected_left=0 # seconds of the steps to be done, at the pace that COST assumes
expected_done=0 # of those that are done,
spent=0         # and what these took in fact
running=
SHARING='np|batch_size_train|num[_-]workers|device|gpu|save_interval' # flags that leave the result as it is

fail() { echo "error: $*" >&2 && exit 2; }

whole_numbers() {
    while [ $# -gt 0 ]; do
        [[ $2 =~ ^[1-9][0-9]{0,8}$ ]] || fail "$1: '$2' is no whole number from 1 up"
        shift 2
    done
}

choose_device() {
    case $2 in
        cpu) DEVICE=(--device cpu) GPU=(--gpu cpu) ;;
        cuda) DEVICE=(--device cuda) GPU=(--gpu cuda:0) ;;
        *) fail "$1: '$2' is neither cpu nor cuda" ;;
    esac
}

own_folder() {
    local name
    [ -e "$OUT/.done" ] && return
    for name in camus views sector augmented diffusion results segmentation_data evaluation; do
        [ ! -e "$OUT/$name" ] || fail "$OUT/ holds $name, and is no folder of this pipeline: give another $ANOTHER"
    done
}

make_folder() {
    mkdir -p "$OUT/.done" 2>/dev/null || fail "the folder $OUT cannot be made: give another $ANOTHER"
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

seconds_of() { # TITLE
    local times="$OUT/.done/times"
    [ -e "$times" ] || times=/dev/null
    awk -F '\t' -v title="$1" '$3 == title { sum += $1 } END { print sum + 0 }' "$times"
}

note_time() {
    [ -z "$running" ] || printf '%s\t%s\n' $((SECONDS - began)) "$running" >>"$OUT/.done/times"
    running=
}
trap note_time EXIT

# The name of a step, or the number that it had in a folder made before it had a name.
mark_of() { # NUMBER TITLE
    local number
    if [ "${NAME:-}" ] && [ ! -e "$OUT/.done/$NAME" ] && [ -e "$OUT/.done/times" ]; then
        number=$(awk -F '\t' -v title="$2" '$3 == title && $2 ~ /^[0-9]+$/ { print $2; exit }' "$OUT/.done/times")
    fi
    printf '%s' "${number:-${NAME:-$1}}"
}

# What of COST is left of a step that may have been begun: they go on where they were.
remaining() { # TITLE
    local gone cost=${COST:-0}
    gone=$(seconds_of "$1")
    printf '%s' $((gone < cost * 19 / 20 ? cost - gone : cost / 20))
}

# At the pace of the steps done so far, which ten minutes as expected are added to: short steps tell little.
time_left() {
    local left=$((expected_left * (spent + 600) / (expected_done + 600)))
    [ "$left" -le 0 ] || printf 'about %d h %02d min left\n' $((left / 3600)) $((left % 3600 / 60))
}

done_with() { # TITLE
    expected_done=$((expected_done + ${COST:-0}))
    [ "${COST:-0}" = 0 ] || spent=$((spent + $(seconds_of "$1")))
}

plan() { # MARK TITLE COMMAND...
    [ -e "$OUT/.done/$1" ] || expected_left=$((expected_left + $(remaining "$2")))
    shift 2
    printf '%s\n' "${*@Q}" >>"$OUT/commands.txt"
}

weights_of() { printf '%s/model%06d.pt' "$1" "$2"; } # SAVEDIR STEP

note() { # NAME COMMAND...
    printf '%s\n%s' "$(quoted "${@:2}")" "$(essence "${@:2}")" >"$OUT/.done/$1.tmp"
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

# The words that count: $OUT may lie elsewhere later.
essence() { # COMMAND...
    local word kept=()
    while [ $# -gt 0 ]; do
        word=$1
        shift
        if [[ $word =~ ^--?($SHARING)$ ]]; then
            [ $# = 0 ] || shift
            continue
        fi
        [[ $word/ != "$OUT"/* ]] || word=OUT${word#"$OUT"}
        kept+=("$word")
    done
    quoted "${kept[@]}"
}

# Whether the note is of this command. Earlier ones are one line, or count flags that are sharing now.
noted() { # NAME COMMAND...
    local said all
    [ -e "$OUT/.done/$1" ] || return
    said=$(cat "$OUT/.done/$1")
    shift
    all=$(quoted "$@")
    case $said in
        *$'\n'*) [ "$(without_sharing "${said#*$'\n'}")" = "$(essence "$@")" ] ;;
        *) [ "$said" = "$*" ] || [ "$(without_sharing "$said")" = "$(without_sharing "$all")" ] ;;
    esac
}

without_sharing() { sed -E "s/ --?($SHARING) [^ ]+//g" <<<"$1"; } # of words in one line

# What was another word then: "then 6000, now 20000".
other_words() { # NAME COMMAND...
    local then now
    then=$(cat "$OUT/.done/$1")
    case $then in
        *$'\n'*) now=$(essence "${@:2}") then=$(without_sharing "${then#*$'\n'}") ;;
        *) now=$(quoted "${@:2}") ;;
    esac
    then=$(tr ' ' '\n' <<<"$then" | sort)
    now=$(tr ' ' '\n' <<<"$now" | sort)
    printf 'then %s, now %s' "$(comm -23 <(echo "$then") <(echo "$now") | paste -sd ' ')" \
        "$(comm -13 <(echo "$then") <(echo "$now") | paste -sd ' ')"
}

# Whether a training has begun with other words than these: it would go on from there, to another end or to none.
begun_otherwise() { # MARK COMMAND...
    local begun=$1.begun
    shift
    [ "${MADE:-}" ] && [ -e "$(dirname "$MADE")" ] && [ -e "$OUT/.done/$begun" ] && ! noted "$begun" "$@"
}

step() { # NUMBER TITLE COMMAND...
    local number=$1 title=$2 mark left
    mark=$(mark_of "$@")
    shift 2
    if [ "$MODE" = plan ]; then
        plan "$mark" "$title" "$@"
        return
    fi
    printf '\n[%s/%s] %s\n$ %s\n' "$number" "$LAST" "$title" "$(quoted "$@")"
    if noted "$mark" "$@"; then
        echo "done before"
        done_with "$title"
        return
    fi
    [ -e "$OUT/.done/$mark" ] || ! begun_otherwise "$mark" "$@" || mark=$mark.begun
    if [ -e "$OUT/.done/$mark" ]; then
        fail "$OUT/ was made with other settings ($(other_words "$mark" "$@")): delete it, or give another $ANOTHER"
    fi
    time_left
    left=$(remaining "$title")
    [ -z "${MADE:-}" ] || note "$mark.begun" "$@"
    began=$SECONDS running=$mark$'\t'$title
    "$@"
    note_time
    if [ ! -e "${MADE:-$OUT}" ]; then
        echo "stopped before its end: run the same command again to go on" >&2
        exit 1
    fi
    note "$mark" "$@"
    rm -f "$OUT/.done/$mark.begun"
    expected_left=$((expected_left - left))
    done_with "$title"
}
