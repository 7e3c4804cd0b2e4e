# What the pipelines share: steps that are done once, and that know how long the rest will take. To be sourced, with OUT
# (the folder), LAST (the number of steps) and ANOTHER (the setting that names another folder) in place.
#
#   step NUMBER TITLE COMMAND...       print and run a command, unless it ran to its end before with the same words
#   COST=SECONDS step NUMBER ...       the seconds it is expected to take: then the time left is told
#   MADE=FILE step NUMBER ...          what it has made at its end: a training that is asked to stop ends well, too early;
#                                      once begun, it goes on with the same words alone
#   MODE=plan step NUMBER ...          run nothing: add up what is to be done, and list the commands in $OUT/commands.txt
#
# $OUT/.done/NUMBER holds the words of a step that ran to its end, $OUT/.done/times a line of seconds, number and title
# for each time that a step ran, to its end or not. $OUT/.done/NUMBER.begun holds the words of a training meanwhile.
MODE=run
expected_left=0 # seconds of the steps to be done, at the pace that COST assumes
expected_done=0 # of those that are done,
spent=0         # and what these took in fact
running=

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

# Whether a training has begun with other words than these: it would go on from there, to another end or to none.
begun_otherwise() { # NUMBER WORDS
    [ "${MADE:-}" ] && [ -e "$(dirname "$MADE")" ] && [ -e "$OUT/.done/$1.begun" ] &&
        [ "$(cat "$OUT/.done/$1.begun")" != "$2" ]
}

step() {
    local number=$1 title=$2
    shift 2
    if [ "$MODE" = plan ]; then
        plan "$@"
        return
    fi
    printf '\n[%s/%s] %s\n$ %s\n' "$number" "$LAST" "$title" "$*"
    if [ "$(cat "$OUT/.done/$number" 2>/dev/null)" = "$*" ]; then
        echo "done before"
        done_with "$number"
        return
    fi
    if [ -e "$OUT/.done/$number" ] || begun_otherwise "$number" "$*"; then
        echo "error: $OUT/ was made with other settings: delete it, or give another $ANOTHER" >&2
        exit 2
    fi
    time_left
    [ -z "${MADE:-}" ] || note "$number.begun" "$*"
    began=$SECONDS running=$number$'\t'$title
    "$@"
    note_time
    if [ ! -e "${MADE:-$OUT}" ]; then
        echo "stopped before its end: run the same command again to go on" >&2
        exit 1
    fi
    note "$number" "$*"
    rm -f "$OUT/.done/$number.begun"
    expected_left=$((expected_left - ${COST:-0}))
    done_with "$number"
}
