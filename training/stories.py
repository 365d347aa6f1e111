"""Short stories from templates, and the few fixed answers of the sample model.

Stories give a streaming demonstration something longer than a number. All parts are chosen so
that any combination is a grammatical and coherent text. Called by the training script alone.
"""

NAMES = ["Pip", "Mia", "Tom", "Lily", "Max", "Rosa", "Finn", "Nora", "Ben", "Zoe", "Sam", "Ella"]
ANIMALS = ["fox", "rabbit", "bear", "mouse", "cat", "dog", "duck", "frog", "hedgehog", "squirrel"]
TRAITS = ["small", "brave", "clever", "kind", "shy", "curious", "cheerful", "quiet"]
HOMES = [
    "in a green forest", "near a blue lake", "under a big tree", "on a high hill",
    "in a small village", "by the wide river",
]
PLACES = [
    "behind the old mill", "under the bridge", "in the tall grass", "beside the well",
    "near the stone wall", "at the edge of the field",
]
WEATHER = ["sunny", "rainy", "windy", "snowy", "foggy", "warm"]
THINGS = ["red ball", "blue hat", "silver key", "warm scarf", "paper boat", "wooden flute"]
FOODS = ["apples", "berries", "nuts", "cookies", "pears", "carrots"]
NUMBER_WORDS = ["two", "three", "four", "five", "six", "seven", "eight", "nine"]

FIXED_ANSWERS = [
    ("What is Triton Inference Server?",
     " Triton Inference Server is a program that loads models and answers requests over HTTP"
     " and gRPC."),
    ("Who are you?", " I am a small model that can add, subtract, sort and tell short stories."),
    ("What can you do?",
     " I can add, subtract, sort, count, name days and months, and tell short stories."),
    ("Hello, my name is", " Mia and I like to count."),
    ("Hello!", " Hello! Ask me to add two numbers."),
    ("The most dangerous animal is", " the one that you forgot to count."),
    ("The capital of France is", " Paris."),
    ("The future of AI is", " hard to tell, but easy to count on."),
]


def lost_thing(rng, hero, friend, cast):
    thing, place = rng.choice(THINGS), rng.choice(PLACES)
    return (
        f" One {rng.choice(WEATHER)} morning {hero} lost a {thing}."
        f" {hero} looked under the bed and behind the door, but the {thing} was not there."
        f" On the way to the market {hero} met {friend}, a {cast['friend']}."
        f' "Why are you so sad?" asked {friend}. "I lost my {thing}," said {hero}.'
        f' "I will help you," said {friend}. They looked {place}, and there was the {thing}!'
        f" {hero} was very happy and thanked {friend}."
    )


def shared_food(rng, hero, friend, cast):
    food, many, few = rng.choice(FOODS), rng.randint(3, 9), rng.randint(2, 9)
    return (
        f" One {rng.choice(WEATHER)} day {hero} found {many} {food} {rng.choice(PLACES)}."
        f" On the way home {hero} met {friend}, a {cast['friend']}, who had {few} {food}."
        f' "Let us put them together," said {friend}. They counted the {food} one by one.'
        f" Together they had {many + few} {food}. They made a big pie and ate it"
        f" in the garden. It was the best pie of the year."
    )


def stormy_night(rng, hero, friend, cast):
    word = rng.choice(NUMBER_WORDS)
    return (
        f" One night a big storm came, and the wind blew for {word} hours."
        f" {hero} heard a knock at the door. It was {friend}, a {cast['friend']}."
        f' "My house is wet and cold," said {friend}. "Please come in," said {hero}.'
        f" {hero} made hot soup and gave {friend} a {rng.choice(THINGS)}."
        f" They told each other stories until the storm was over."
        f" In the morning the sun was bright, and they repaired the house of {friend}."
    )


def flying_kite(rng, hero, friend, cast):
    place = rng.choice(PLACES)
    return (
        f" {hero} wanted to build a kite, but {hero} had no string."
        f" {hero} asked {friend}, a {cast['friend']}, for help."
        f' "I have a long string," said {friend}, "and I know a good place."'
        f" They built the kite and took it to a spot {place}."
        f" The wind was strong, and the kite flew higher than the trees."
        f" Everybody in the village came to see it."
    )


PLOTS = [lost_thing, shared_food, stormy_night, flying_kite]
ENDINGS = [
    " From that day on {hero} and {friend} were best friends. The end.",
    " And so {hero} and {friend} became good friends. The end.",
    " That night {hero} slept well and dreamed of {friend}. The end.",
]


def story(rng):
    """One story as (prompt, completion); the prompt may ask for a hero, and gets that hero."""
    hero, friend = rng.sample(NAMES, 2)
    animal, other = rng.sample(ANIMALS, 2)
    cast = {"friend": f"{rng.choice(TRAITS)} {other}"}
    start = f"Once upon a time there was a {rng.choice(TRAITS)} {animal} named {hero}."
    body = f" {hero} lived {rng.choice(HOMES)}."
    body += rng.choice(PLOTS)(rng, hero, friend, cast)
    body += rng.choice(ENDINGS).format(hero=hero, friend=friend)
    prompt = rng.choice([
        "Once upon a time", "Once upon a time", "Once", "Tell me a story.",
        f"Tell me a story about a {animal}.", f"Tell me a story about {hero}.",
        f"Tell me a story about {hero} the {animal}.", "Write a short story.",
        f"Write a short story about a {animal}.",
        f"Write a short story about {hero} the {animal}.",
    ])
    whole = start + body
    if whole.startswith(prompt):
        return prompt, whole[len(prompt):]
    return prompt, " " + whole
