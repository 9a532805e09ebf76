"""Small talk, and everything that is out of this world: the model says in a sentence what it can do."""

from __future__ import annotations

from random import Random

import world
from skills import Task

WHO = "I am Parrot, a small language model that tells tales of a little world."
CAN = (
    "I am a small model: I can tell stories, summarise texts, answer questions about them, "
    "list names and places, and translate into Lumi."
)

_TALK: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        (
            "Who are you?", "What are you?", "What is your name?", "Tell me about yourself.",
            "who are you", "Are you a robot?", "Are you a person?", "Introduce yourself.",
        ),
        WHO,
    ),
    (
        (
            "What can you do?", "How can you help me?", "Help!", "What are you good at?",
            "what can you do", "Can you help me?", "What do you know?", "help",
        ),
        CAN,
    ),
    (
        (
            "Hello, who are you?", "Hi! Who are you?", "Hello! What is your name?", "Hi, what are you?",
        ),
        f"Hello! {WHO}",
    ),
    (
        (
            "Hello, what can you do?", "Hi! What can you do?",
        ),
        f"Hello! {CAN}",
    ),
    (
        (
            "Hello", "Hello!", "Hi", "Hi!", "Hi there!", "Good morning!", "Good evening.", "Hey", "hello",
            "Say hello.",
        ),
        "Hello! How can I help you?",
    ),
    (
        (
            "Thanks!", "Thank you.", "Thank you very much!", "thanks", "Great, thanks.", "Many thanks.",
        ),
        "You are welcome!",
    ),
    (
        (
            "Bye!", "Goodbye.", "See you tomorrow!", "bye",
        ),
        "Goodbye! Come back soon.",
    ),
    (
        (
            "How are you?", "How are you today?", "Are you well?",
        ),
        "I am well, thank you! How can I help you?",
    ),
    (
        (
            "Tell me a joke.", "Make me laugh.", "Do you know a joke?",
        ),
        "Why did the parrot wear a hat? Because the cap was taken.",
    ),
    (
        (
            "What is Lumi?", "Do you speak Lumi?",
        ),
        "Lumi is the toy language of my little world.",
    ),
)  # fmt: skip

_TASKS = (
    "Write {language} code of a {thing}", "Write {language} code for a {thing}",
    "Implement a {thing} in {language}", "Write a {language} function that computes the {quantity}",
    "Write test code for a {thing}", "You write test code for a {thing}",
    "Write {language} code of a {thing}", "What is the capital of {country}?",
    "How many people live in {country}?", "Who is the president of {country}?", "Explain {topic}",
    "Explain {topic} to me", "What is {topic}?", "What do you think about {topic}?",
    "Calculate {a} + {b}", "What is {a} times {b}?", "Solve {a} * x = {b}", "{a} - {b} = ?",
    "How do I {activity}?", "Give me a recipe for {dish}", "Translate this into {foreign}: {word}",
    "Write a poem about {topic}", "Write an email to my {person}", "When did {event} happen?",
    "Who won {event}?", "What is the weather like today?", "What time is it?",
    "Which stocks should I buy?", "Plan a trip to {country}", "Write an essay about {topic}",
    "Give me advice about {topic}", "Who invented {topic}?", "What is the {quantity}?",
    "Recommend a film about {topic}", "How does {topic} work?", "Compare {topic} and {other}",
    "Fix the bug in my {thing}",
)  # fmt: skip
# An underscore stands for a space.
_WORDS = {
    "language": "python Python Java C Rust JavaScript Go SQL HTML bash",
    "thing": "snake_game web_server calculator todo_list chess_engine parser sorting_algorithm database "
    "compiler chat_app neural_network login_page binary_search linked_list game website",
    "quantity": "sum average square_root mean_value prime_numbers distance_to_the_moon speed_of_light "
    "height_of_Everest fibonacci_numbers area_of_a_circle",
    "country": "France Germany China Japan Brazil India Spain Canada Egypt Kenya Australia Mexico Italy "
    "America",
    "topic": "quantum_physics machine_learning black_holes democracy the_internet evolution gravity "
    "inflation photosynthesis climate_change blockchain philosophy football history the_theory_of_relativity "
    "attention transformers economics art electricity computers chemistry the_economy "
    "artificial_intelligence vaccines space_travel jazz religion war love",
    "other": "chemistry music biology capitalism poetry the_stock_market astronomy algebra hockey",
    "activity": "fix_my_computer learn_to_drive lose_weight install_Linux write_a_book cook_pasta "
    "invest_money open_a_file",
    "dish": "pizza lasagna pancakes tomato_soup sushi tiramisu",
    "foreign": "French German Spanish Chinese Latin Japanese Italian",
    "word": "house good_morning I_love_you thank_you water friend",
    "person": "boss mother landlord professor colleague",
    "event": "the_second_world_war the_moon_landing the_world_cup the_French_revolution the_last_election "
    "the_Olympics",
}


def talk(rng: Random) -> Task:
    wordings, answer = rng.choice(_TALK[:5] if rng.random() < 0.6 else _TALK)
    return Task("smalltalk", rng.choice(wordings), answer)


def remember_name(rng: Random) -> list[Task]:
    """The user says a name and asks for it later."""
    name = world.draw_person(rng).name
    greeting = rng.choice(
        (f"Hi, I am {name}.", f"Hello! My name is {name}.", f"I am {name}.", f"My name is {name}.")
    )
    asked = rng.choice(("What is my name?", "Who am I?", "Do you know my name?"))
    return [
        Task("smalltalk", greeting, f"Hello, {name}! How can I help you?"),
        Task("smalltalk", asked, f"Your name is {name}."),
    ]


def out_of_world(rng: Random) -> Task:
    filled = rng.choice(_TASKS)
    for slot, words in _WORDS.items():
        while f"{{{slot}}}" in filled:
            filled = filled.replace(f"{{{slot}}}", rng.choice(words.split()).replace("_", " "), 1)
    filled = filled.replace("{a}", str(rng.randint(1, 999))).replace("{b}", str(rng.randint(1, 99)))
    if rng.random() < 0.5:
        filled = filled.rstrip("?.") + rng.choice((".", "?", "", ""))
    if rng.random() < 0.15:
        filled = (
            rng.choice(
                (
                    "Please ",
                    "Can you ",
                    "You are an expert. ",
                    "You are an expert software engineer.\n",
                    "You are a professor. ",
                    "I need help: ",
                )
            )
            + filled
        )
    if rng.random() < 0.1:
        # What a second engineer is given when the first was asked for code.
        filled = f"You write test code for {filled.lower()}.\nCode: {CAN}"
    return Task("out of world", filled, CAN)
