# Makes small models for scripts of this folder: real files of random weights with a real tokenizer.
#   demo_model FOLDER [SEED]     a Llama of three layers; writes words, but no sense
demo_model() {
    "${DYN_BUILD:-build}/bin/random_model" tests/data/demo/config.json "$1" --seed "${2:-1}" &&
        cp tests/golden/tokenizers/llama3.json "$1/tokenizer.json"
}
